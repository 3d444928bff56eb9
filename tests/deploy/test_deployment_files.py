"""The files of deploy/ without a cluster: against Kubernetes' schemas, and against each other, the
command line and the source tree."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import inflight
import kubernetes_validate
import pytest
import typer
import yaml
from inflight.cli import serve
from inflight.cli.main import app
from inflight.serving.schema import TENSORRT_LLM
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
DEPLOY = (ROOT / "docs" / "deploy.md").read_text()
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


def instructions(name: str) -> list[str]:
    """Of the Dockerfile, each in one line, without its name."""
    lines = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [line.split(" ", 1)[1] for line in lines.splitlines() if line.startswith(name + " ")]


def refusal(*arguments: str) -> str:
    """Options are read in order, and the first unknown one is named before anything is looked at."""
    ran = subprocess.run(
        [sys.executable, "-m", "inflight.cli.main", *arguments, "--no-such-option"],
        cwd=ROOT / "python_model", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 2 and "--no-such-option" in ran.stderr, ran.stderr
    return ran.stderr


def served() -> tuple[str, list[str]]:
    """The command and arguments of a pod."""
    (entry,) = instructions("ENTRYPOINT")
    program, command, *flags = json.loads(entry)
    assert program == "inflight"
    return command, [*flags, *container()["args"]]


def test_the_command_line_knows_every_option() -> None:
    command, arguments = served()
    said = [arg for arg in arguments if arg.startswith("--")]
    message = refusal(command, *said)
    assert not any(flag.split("=")[0] in message for flag in said)
    installs = [
        part.split()[1:]
        for line in instructions("RUN")
        for part in line.split("&&")
        if part.split()[0] == "inflight"
    ]
    assert [one[2:] for one in installs if one[0] == "install"] == [[], ["tensorrtllm"]]
    for one in installs:
        refusal(*one)


def test_serve_listens_where_the_manifests_look() -> None:
    command, arguments = served()
    given = dict(arg[2:].split("=", 1) for arg in arguments if arg.startswith("--"))
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    defaults = {p.name: p.default for p in typer.main.get_command(app).commands[command].params}
    for name, port in ports.items():
        assert int(given.get(f"{name}-port", defaults[f"{name}_port"] or 0)) == port
    paths = {
        name: container()[f"{name}Probe"]["httpGet"]
        for name in ("startup", "readiness", "liveness")
    }
    for name in ("startup", "readiness"):
        assert paths[name] == {"path": "/health", "port": "openai"}
    assert (paths["liveness"]["path"], paths["liveness"]["port"]) == (
        f"/v2/models/{TENSORRT_LLM.name}/ready",
        "http",
    )
    endpoint = (ROOT / "python_model" / "inflight" / "openai" / "app.py").read_text()
    assert 'api_route("/health"' in endpoint
    assert given["model-control-mode"] == "explicit"  # or no readiness is taken from a dead engine


def test_files_lie_where_the_command_looks() -> None:
    _, arguments = served()
    mounts = {mount["mountPath"]: mount["name"] for mount in container()["volumeMounts"]}
    volumes = {v["name"]: v for v in deployment()["spec"]["template"]["spec"]["volumes"]}
    (model,) = [arg for arg in arguments if not arg.startswith("--")]
    assert volumes[mounts[str(Path(model).parent)]]["persistentVolumeClaim"]["readOnly"]
    (keys,) = [arg.split("=")[1] for arg in arguments if arg.startswith("--api-key-file=")]
    secret = volumes[mounts[str(Path(keys).parent)]]["secret"]["secretName"]
    assert f"secret generic {secret} --from-file={Path(keys).name}=" in DEPLOY
    assert "emptyDir" in volumes[mounts["/dev/shm"]] and "emptyDir" in volumes[mounts["/tmp"]]


def test_there_is_time_for_answers_under_way() -> None:
    spec = deployment()["spec"]["template"]["spec"]
    _, seconds = container()["lifecycle"]["preStop"]["exec"]["command"]
    assert spec["terminationGracePeriodSeconds"] >= int(seconds) + serve._EXIT_SECONDS + 10


def test_the_user_of_the_image_is_that_of_the_pod() -> None:
    context = deployment()["spec"]["template"]["spec"]["securityContext"]
    owner = f"{context['runAsUser']}:{context['runAsGroup']}"
    assert instructions("USER") == [owner] and context["fsGroup"] == context["runAsGroup"]
    (cache,) = re.findall(r"XDG_CACHE_HOME=(\S+)", " ".join(instructions("ENV")))
    assert any(f"chown {owner} {cache}" in line for line in instructions("RUN"))
    assert instructions("WORKDIR")[-1] == cache


def copied() -> list[str]:
    return [
        source
        for line in instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    ]


def test_the_image_copies_what_is_there() -> None:
    assert copied() and all((ROOT / source).exists() for source in copied())
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied())
    for option in re.findall(r"-D(INFLIGHT_\w+)", " ".join(instructions("RUN"))):
        assert option in (ROOT / "CMakeLists.txt").read_text()


def test_versions_are_those_of_the_source() -> None:
    assert container()["image"] == f"inflight:{inflight.__version__}"
    images = dict(line.split("=") for line in instructions("ARG") if "_IMAGE=" in line)
    release = re.fullmatch(r"nvcr.io/nvidia/tritonserver:(\d\d\.\d\d)-py3", images["TRITON_IMAGE"])
    oldest = re.search(r"tritonserver 2\.\d+ \(release (\d\d\.\d\d)\) or later", DEPLOY)
    assert release and oldest and release[1] >= oldest[1]
    cuda = re.fullmatch(r"nvidia/cuda:(\d+)\.[\d.]+-devel-ubuntu24\.04", images["CUDA_IMAGE"])
    assert cuda and int(cuda[1]) >= 13  # kernels of 100-real, and 25.09's own
    ours = re.search(
        r"set\(INFLIGHT_CUDA_ARCHITECTURES (\S+)", (ROOT / "CMakeLists.txt").read_text()
    )
    (built,) = [line for line in instructions("ARG") if line.startswith("CUDA_ARCHITECTURES=")]
    assert ours and f"{ours[1]}-real" in built
    # Of Ubuntu 24.04's Python each requirement has one version.
    environment = {"python_version": "3.12", "python_full_version": "3.12.3"}
    names = []
    for line in (ROOT / "requirements" / "run.txt").read_text().splitlines():
        if line and not line.startswith(("#", "-r")):
            one = Requirement(line.split(" #")[0])
            if one.marker is None or one.marker.evaluate(environment):
                assert re.match("==", str(one.specifier)), line
                names.append(one.name)
    assert len(names) == len(set(names)) and "nvidia-pytriton" in names


def test_what_is_copied_is_enough_to_build(tmp_path: Path) -> None:
    """Configured as in the image but for CUDA; no source is missing, and the package says what it is."""
    for source in copied():
        if (ROOT / source).is_dir():
            ignore = shutil.ignore_patterns("__pycache__", "lib", "_core*.so", "*.egg-info")
            shutil.copytree(ROOT / source, tmp_path / source, ignore=ignore)
        else:
            shutil.copy(ROOT / source, tmp_path / source)

    def run(program: str, *arguments: str) -> str:
        command = [str(Path(sys.executable).parent / program), *arguments]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    (configure,) = [line for line in instructions("RUN") if "cmake -S" in line]
    options = re.findall(r"-D(INFLIGHT_TESTS=\w+)", configure)
    run("cmake", "-S", ".", "-B", "build", "-G", "Ninja", f"-DPython3_EXECUTABLE={sys.executable}",
        "-DINFLIGHT_CUDA=OFF", *(f"-D{option}" for option in options))  # fmt: skip
    targets = run("ninja", "-C", "build", "-t", "targets", "all")
    assert "libtriton_inflight.so:" in targets and "_core" in targets
    script = "import os, setuptools.build_meta as b; os.chdir('python_model');"
    run("python", "-c", f"{script} b.prepare_metadata_for_build_editable({str(tmp_path)!r})")
    (metadata,) = tmp_path.glob("inflight-*.dist-info")
    assert f"\nVersion: {inflight.__version__}\n" in (metadata / "METADATA").read_text()
    assert "inflight = inflight.cli.main:main" in (metadata / "entry_points.txt").read_text()


def test_the_dockerfile_is_clean() -> None:
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    assert hadolint, "requirements/test.txt brings it"
    ran = subprocess.run([hadolint, str(DOCKERFILE)], capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout
