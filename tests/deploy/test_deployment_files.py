"""The files of deploy/ without a cluster: against Kubernetes' schemas, and against each other, the
command line and the source tree."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
CUSTOM = {"kustomization.yaml", "pod-monitor.yaml"}  # of no schema that Kubernetes brings
OLDEST = "1.30"


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((KUBERNETES / name).read_text()))


def deployment() -> dict:
    (document,) = documents("deployment.yaml")
    return document


def container() -> dict:
    (only,) = deployment()["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("version", [OLDEST, kubernetes_validate.latest_version()])
@pytest.mark.parametrize(
    "name", sorted(path.name for path in KUBERNETES.glob("*.yaml") if path.name not in CUSTOM)
)
def test_manifests_keep_the_schema(name: str, version: str) -> None:
    for document in documents(name):
        kubernetes_validate.validate(document, version, strict=True)


def test_the_schema_check_can_fail() -> None:
    broken = deployment()
    broken["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, OLDEST, strict=True)


def test_the_kustomization_names_every_manifest() -> None:
    (kustomization,) = documents("kustomization.yaml")
    there = {path.name for path in KUBERNETES.glob("*.yaml")} - CUSTOM
    assert set(kustomization["resources"]) == there
    image = container()["image"]
    assert [f"{one['name']}:{one['newTag']}" for one in kustomization["images"]] == [image]


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl on this machine")
def test_kubectl_builds_it() -> None:
    ran = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES)], capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    kinds = sorted(document["kind"] for document in yaml.safe_load_all(ran.stdout))
    assert kinds == ["Deployment", "NetworkPolicy", "PodDisruptionBudget", "Service", "Service"]
    assert "registry.example.com/inflight:" in ran.stdout


def test_selectors_and_ports_meet() -> None:
    labels = deployment()["spec"]["template"]["metadata"]["labels"]
    assert deployment()["spec"]["selector"]["matchLabels"].items() <= labels.items()
    names = {port["name"]: port["containerPort"] for port in container()["ports"]}
    for service in documents("service.yaml"):
        assert service["spec"]["selector"].items() <= labels.items()
        for port in service["spec"]["ports"]:
            assert names[port["targetPort"]] == port["port"]
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[kind]["httpGet"]["port"] in names
    annotations = deployment()["spec"]["template"]["metadata"]["annotations"]
    assert int(annotations["prometheus.io/port"]) == names["metrics"]
    (monitor,) = documents("pod-monitor.yaml")
    assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} <= set(names)
    exposed = re.search(r"^EXPOSE (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert exposed and set(map(int, exposed[1].split())) == set(names.values())


def test_every_volume_is_mounted_and_the_other_way_round() -> None:
    volumes = {volume["name"] for volume in deployment()["spec"]["template"]["spec"]["volumes"]}
    mounts = {mount["name"] for mount in container()["volumeMounts"]}
    assert volumes == mounts
    paths = {mount["mountPath"] for mount in container()["volumeMounts"]}
    cache = re.search(r"XDG_CACHE_HOME=(\S+)", DOCKERFILE.read_text())
    assert cache and cache[1] in paths  # the root file system is read-only


def test_the_command_line_knows_every_option() -> None:
    entry = re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    program, command, *flags = json.loads(entry[1])
    assert program == "inflight"
    said = [*flags, *(arg for arg in container()["args"] if arg.startswith("--"))]
    # Options are read in order, and the first unknown one is named before anything is looked at.
    ran = subprocess.run(
        [sys.executable, "-m", "inflight.cli.main", command, *said, "--no-such-option"],
        cwd=ROOT / "python_model", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2 and "--no-such-option" in ran.stderr, ran.stderr
    assert not any(flag.split("=")[0] in ran.stderr for flag in said)


def test_the_image_copies_what_is_there() -> None:
    text = DOCKERFILE.read_text()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.*)$", text, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied and all((ROOT / source).exists() for source in copied)
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    for option in re.findall(r"-D(INFLIGHT_\w+)", text):
        assert option in (ROOT / "CMakeLists.txt").read_text()
    assert re.search(r"^nvidia-pytriton", (ROOT / "requirements" / "run.txt").read_text(), re.M)


def test_the_dockerfile_is_clean() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "requirements/test.txt brings it"
    ran = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout
