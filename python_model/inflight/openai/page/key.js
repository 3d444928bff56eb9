// The API key: asked for when the server wants one, kept as long as the tab is open.
const PLACE = "inflight-api-key";

export class Key {
  constructor() {
    this.changed = () => {};
    this.form = document.getElementById("key-form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(PLACE, document.getElementById("key").value.trim());
      this.form.hidden = true;
      this.changed();
    });
  }

  ask() {
    if (!this.form.hidden) return;
    this.form.hidden = false;
    document.getElementById("key").focus();
  }

  headers() {
    const key = sessionStorage.getItem(PLACE);
    return key ? { Authorization: `Bearer ${key}` } : {};
  }
}
