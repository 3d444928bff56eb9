"""For those who call a server over HTTP; nothing of the server's side is imported here."""
