#!/usr/bin/env python3
"""What of deploy/ can be checked without a cluster, a container engine or a running systemd.

    check.py [--weir FILE]

Runs in the environment of tests/scripts/deploy.txt: schemas of Kubernetes and Compose, the engine of Helm, hadolint. systemd's
own checks run where systemd-analyze is installed, else that is said. With --weir the configurations are checked too.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import helm_python
import kubernetes_validate
import yaml
from helm_python import chart

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "weir"
VERSIONS = ("1.29.1", "1.33.1", "1.37.0")  # the first with native sidecars by default, and today's
TOKEN = {"keys": {"values": {"WEIR_ADMIN_TOKEN": "t"}}}
# What is rendered of the chart: the defaults, and everything that a condition brings or takes away.
VALUES = {
    "defaults": {},
    "kept": {"state": {"size": "1Gi", "storageClass": "fast"}, "autoscaling": {"enabled": True, "min": 1, "max": 3, "cpu": 60}},
    "given": {"keys": {"existing": "mine"}, "models": {"existing": "shared", "add": []}, "network": {"policy": False},
              "serviceMonitor": {"enabled": True}, "podAnnotations": {"a": "b"}, "nodeSelector": {"disk": "fast"},
              "tolerations": [{"key": "k", "operator": "Exists"}], "affinity": {"podAntiAffinity": {}}},
}
REFUSED = {
    "an unknown key": {"replicaCount": 3}, "a drain that is no number": {"drain": "long"},
    "a model that cannot be fetched": {"models": {"add": ["small"]}}, "a configuration without weir.toml": {"config": {"weir.toml": None}},
}


def tell(what):
    print(f"deploy: {what}")


def fail(what):
    sys.exit(f"deploy: {what}")


def merged(*values):
    """Values laid over each other, maps within maps."""
    result = {}
    for one in values:
        for key, value in one.items():
            known = result.get(key)
            result[key] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def check_manifest(where, document):
    if document["apiVersion"].startswith("monitoring.coreos.com/"):
        return tell(f"{where}: {document['kind']} is a custom resource, its schema is not at hand: not checked")
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            fail(f"{where}: {document['kind']}, Kubernetes {version}: {error}")


def pods(documents_):
    for document in documents_:
        if "template" in document.get("spec", {}):
            yield document, document["spec"]["template"]


def check_pods(where, manifests):
    """What a schema does not know: names that must exist, locked containers, time enough to end."""
    volumes = {document["metadata"]["name"] for document in manifests if document["kind"] in ("ConfigMap", "Secret", "PersistentVolumeClaim")}
    for document, pod in pods(manifests):
        spec, labels = pod["spec"], pod["metadata"]["labels"]
        selector = document["spec"].get("selector", {}).get("matchLabels", {})
        if not selector.items() <= labels.items():
            fail(f"{where}: {document['metadata']['name']} does not select its own pods")
        if not spec["securityContext"]["runAsNonRoot"]:
            fail(f"{where}: {document['metadata']['name']} may run as root")
        own = {claim["metadata"]["name"] for claim in document["spec"].get("volumeClaimTemplates", [])}
        named = {volume["name"] for volume in spec["volumes"]} | own
        for container in itertools.chain(spec.get("initContainers", []), spec["containers"]):
            check_container(f"{where}: {document['metadata']['name']}/{container['name']}", container, named, spec)
        for volume in spec["volumes"]:
            for kind, key in (("configMap", "name"), ("persistentVolumeClaim", "claimName")):
                if kind in volume and volume[kind][key] not in volumes | {"shared"}:
                    fail(f"{where}: no {kind} {volume[kind][key]}")


def check_container(where, container, volumes, spec):
    context = container["securityContext"]
    if not (context["readOnlyRootFilesystem"] and context["capabilities"]["drop"] == ["ALL"] and not context["allowPrivilegeEscalation"]):
        fail(f"{where} is not locked")
    if "memory" not in container["resources"]["limits"]:
        fail(f"{where} has no limit of memory")
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            fail(f"{where} mounts {mount['name']}, which is no volume")
        if "subPath" in mount:
            fail(f"{where}: a subPath never sees a change of its ConfigMap")
    args = container.get("args", [])
    if args[:1] == ["serve"]:
        ending = int(args[args.index("--grace") + 1]) + int(args[args.index("--drain") + 1])
        if spec["terminationGracePeriodSeconds"] < ending + 20:
            fail(f"{where}: ended after {spec['terminationGracePeriodSeconds']} s, and draining may take {ending} s")
        ports = {port["name"] for port in container["ports"]}
        for probe, path in (("startupProbe", "/startupz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
            get = container[probe]["httpGet"]
            if get["path"] != path or get["port"] not in ports:
                fail(f"{where}: {probe} asks {get}")


def check_selectors(where, manifests):
    """Services, budgets and policies select the gateway's pods."""
    labels = [pod["metadata"]["labels"] for _, pod in pods(manifests)]
    for document in manifests:
        selector = document.get("spec", {}).get("selector") if document["kind"] in ("Service", "PodDisruptionBudget") else None
        selector = document["spec"]["podSelector"] if document["kind"] == "NetworkPolicy" else selector
        selector = (selector or {}).get("matchLabels", selector or {})
        if selector and not any(selector.items() <= one.items() for one in labels):
            fail(f"{where}: {document['kind']} {document['metadata']['name']} selects no pod")


def check_kubernetes():
    files = {file.name: documents(file.read_text()) for file in sorted((DEPLOY / "k8s").glob("*.yaml"))}
    kustomization = files.pop("kustomization.yaml")[0]
    for name, manifests in files.items():
        for document in manifests:
            check_manifest(name, document)
    check_pods("k8s", [document for manifests in files.values() for document in manifests])
    check_selectors("k8s", [document for name in kustomization["resources"] for document in files[name]])
    sidecar = next(pod for _, pod in pods(files["sidecar.yaml"]))["spec"]["initContainers"][0]
    if sidecar["restartPolicy"] != "Always":
        fail("k8s: the sidecar is no native one")
    tell(f"k8s: {sum(map(len, files.values()))} manifests fit the schemas of Kubernetes {', '.join(VERSIONS)}")
    return next(document for document in files["config.yaml"])["data"]


def check_chart():
    faults = chart.lint(CHART, TOKEN, strict=True)["errors"]
    if faults:
        fail(f"helm lint: {faults}")
    count = 0
    with chart.Chart.load(CHART) as weir:
        for name, values in VALUES.items():
            rendered = weir.render(merged(TOKEN, values), name=name, namespace="ns")
            manifests = [one for file, text in rendered.items() if file.endswith(".yaml") for one in documents(text)]
            for document in manifests:
                check_manifest(f"helm, {name}", document)
            check_pods(f"helm, {name}", manifests)
            check_selectors(f"helm, {name}", manifests)
            count += len(manifests)
        for what, values in REFUSED.items():
            try:
                weir.render(merged(TOKEN, values), name="no", namespace="ns")
            except helm_python.HelmError:
                continue
            fail(f"helm: {what} is rendered")
        try:
            weir.render({}, name="no", namespace="ns")
            fail("helm: no token for the admin port, and nobody is told")
        except helm_python.HelmError:
            pass
        config = weir.values["config"]
    tell(f"helm: {count} manifests rendered and checked; {len(REFUSED) + 1} wrong values refused")
    return config


def check_copies(copies):
    """The configuration stands in three places, and is the same."""
    original = {file.name: file.read_text() for file in (DEPLOY / "weir").iterdir()}
    for where, files in copies.items():
        if files != original:
            fail(f"{where} differs from deploy/weir")


def check_configuration(weir):
    reference = (ROOT / "config" / "weir.toml").read_text()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        models.mkdir()
        for file in (DEPLOY / "weir").iterdir():
            text = file.read_text()
            # A binary whose reference has no such key yet is asked about the rest.
            if "admin_token" not in reference:
                text = "\n".join(line for line in text.splitlines() if not line.startswith("admin_token"))
            (Path(folder) / file.name).write_text(text)
        (models / "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf").write_bytes(b"GGUF")
        env = os.environ | {"WEIR_MODELS": str(models), "WEIR_ADMIN_TOKEN": "t", "OPENAI_API_KEY": "k"}
        checked = subprocess.run([weir, "check", folder], env=env, capture_output=True, text=True)
    if checked.returncode or "warning" in checked.stdout:
        fail(f"weir check: {checked.stdout}{checked.stderr}")
    tell("weir check: the configuration and its policy are right")


def check_compose():
    tool = Path(sys.executable).parent / "check-jsonschema"
    fits = subprocess.run([tool, "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml"], capture_output=True, text=True)
    if fits.returncode:
        fail(f"compose: {fits.stdout}{fits.stderr}")
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    for name, service in services.items():
        if not (service["read_only"] and service["cap_drop"] == ["ALL"] and "healthcheck" in service):
            fail(f"compose: {name} is not locked, or has no health check")
        for port in service["ports"]:
            if not port.startswith("127.0.0.1:"):
                fail(f"compose: {name} is reached from other machines at {port}")
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith(".") and not (DEPLOY / source).exists():
                fail(f"compose: {name} mounts {source}, which is not there")
    for file in sorted((DEPLOY / "compose").rglob("*.yaml")):
        yaml.safe_load(file.read_text())
    tell(f"compose: {len(services)} services fit the schema, are locked, and their files are there")


def check_containerfiles():
    tool = Path(sys.executable).parent / "hadolint"
    files = [DEPLOY / "Containerfile", DEPLOY / "example-app" / "Containerfile"]
    linted = subprocess.run([tool, *files], capture_output=True, text=True)
    if linted.returncode:
        fail(f"hadolint: {linted.stdout}{linted.stderr}")
    tell(f"hadolint: nothing to say of {len(files)} files")


def check_units():
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return tell("systemd-analyze is not installed: the units are not checked")
    units = sorted((DEPLOY / "systemd").iterdir())
    with tempfile.TemporaryDirectory() as folder:
        copies = []
        for unit in units:
            copy = Path(folder) / unit.name
            copy.write_text(unit.read_text().replace("/usr/local/bin/weir", "/bin/true"))
            copies.append(copy)
        verified = subprocess.run([analyze, "verify", *copies], capture_output=True, text=True)
    if verified.returncode or verified.stderr.strip():
        fail(f"systemd-analyze verify: {verified.stderr}")
    service = DEPLOY / "systemd" / "weir.service"
    security = subprocess.run([analyze, "security", "--offline=true", "--threshold=20", "--no-pager", service],
                              capture_output=True, text=True)
    if security.returncode:
        fail(f"systemd-analyze security: {security.stdout}{security.stderr}")
    tell(f"systemd: {len(units)} units verified; {security.stdout.strip().splitlines()[-1].strip('→ ')}")


def main():
    flags = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    flags.add_argument("--weir", type=Path, help="the binary, to check the configurations with")
    weir = flags.parse_args().weir
    check_copies({"k8s/config.yaml": check_kubernetes(), "the chart's values.config": check_chart()})
    check_compose()
    check_containerfiles()
    check_units()
    if weir:
        check_configuration(weir)


if __name__ == "__main__":
    main()
