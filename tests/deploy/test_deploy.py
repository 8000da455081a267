"""The manifests are valid, the smoke test tells good servers from others, the dashboard asks for what is exported."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dynamo_tito as tito
from dynamo_tito import simulator
from dynamo_tito._observe import Target

yaml = pytest.importorskip("yaml", reason="needs PyYAML")

DEPLOY = Path(__file__).parents[2] / "deploy"
#: Of Kubernetes 1.37, whose schemas kubernetes-validate 1.37 brings.
KUBERNETES = "1.37.0"
#: Members of a DynamoGraphDeployment and of a component: nvidia.com/v1beta1 of Dynamo 1.6.1
#: (deploy/operator/config/crd/bases/nvidia.com_dynamographdeployments.yaml), which no package brings.
GRAPH = {
    "annotations",
    "backendFramework",
    "components",
    "env",
    "experimental",
    "labels",
    "priorityClassName",
    "restart",
}
COMPONENT = {
    "compilationCache", "eppConfig", "experimental", "frontendSidecar", "globalDynamoNamespace", "modelRef",
    "multinode", "name", "podTemplate", "replicas", "scalingAdapter", "sharedMemorySize", "topologyConstraint", "type",
}  # fmt: skip
TYPES = {"frontend", "worker", "prefill", "decode", "planner", "epp"}


def documents() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted(DEPLOY.rglob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            yield f"{file.relative_to(DEPLOY)}: {document['kind']}", document


DOCUMENTS = dict(documents())


def validated(document: dict[str, Any]) -> None:
    kubernetes = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    kubernetes.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_manifest_is_valid(name: str) -> None:
    document = DOCUMENTS[name]
    if document["apiVersion"] != "nvidia.com/v1beta1":
        validated(document)
        return
    assert document["kind"] == "DynamoGraphDeployment"
    spec = document["spec"]
    assert set(spec) <= GRAPH
    assert spec["backendFramework"] in {"vllm", "sglang", "trtllm"}
    names = [component["name"] for component in spec["components"]]
    assert len(set(names)) == len(names)
    for component in spec["components"]:
        assert set(component) <= COMPONENT
        assert component["type"] in TYPES
        template = component["podTemplate"]
        assert [container["name"] for container in template["spec"]["containers"]] == ["main"]
        validated({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **template})


def test_a_wrong_manifest_is_none() -> None:
    pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate")
    document = json.loads(json.dumps(DOCUMENTS["vllm/server.yaml: Deployment"]))
    document["spec"]["template"]["spec"]["containers"][0]["arg"] = []
    with pytest.raises(Exception, match="arg"):
        validated(document)


def main_container(name: str) -> tuple[dict[str, str], list[str]]:
    spec = DOCUMENTS["dynamo/graph.yaml: DynamoGraphDeployment"]["spec"]
    component = next(each for each in spec["components"] if each["name"] == name)
    (container,) = component["podTemplate"]["spec"]["containers"]
    variables = {each["name"]: each["value"] for each in [*spec["env"], *container.get("env", [])]}
    return variables, container.get("args", [])


def test_the_switches_that_discovery_and_routing_need_are_set() -> None:
    frontend, _ = main_container("Frontend")
    worker, arguments = main_container("Worker")
    assert frontend["DYN_ENABLE_RL"] == worker["DYN_ENABLE_RL"] == "true"
    service = DOCUMENTS["dynamo/graph.yaml: Service"]["spec"]
    assert frontend["DYN_RL_PORT"] == str(service["ports"][0]["targetPort"])
    assert worker["DYN_SYSTEM_PORT"]
    vllm = DOCUMENTS["vllm/server.yaml: Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
    sglang = DOCUMENTS["sglang/server.yaml: Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"]
    for given in (arguments, vllm, sglang):
        assert "--enable-return-routed-experts" in given


def smoke(url: str, **variables: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "TITO_URL": url, "TITO_WAIT": "0", **variables}
    command = ["bash", str(DEPLOY / "smoke.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_the_smoke_test_passes_where_rollouts_may_begin() -> None:
    with simulator.running(backend="dynamo", prompt_start="trim") as engine:
        done = smoke(engine.url, TITO_RL_URL=engine.rl_url, TITO_MODEL="tito-model")
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(engine.instance_id) in done.stdout


def test_the_smoke_test_fails_without_routing_and_without_a_server() -> None:
    with simulator.running(backend="vllm", routed_experts=False) as engine:
        done = smoke(engine.url)
        assert done.returncode == 1, done.stdout + done.stderr
        assert "--enable-return-routed-experts" in done.stdout
    assert smoke("http://127.0.0.1:9").returncode == 2


def test_the_dashboard_asks_for_what_is_exported() -> None:
    metrics = pytest.importorskip("opentelemetry.sdk.metrics")
    exporter = pytest.importorskip("opentelemetry.exporter.prometheus")
    prometheus = pytest.importorskip("prometheus_client")
    provider = metrics.MeterProvider(metric_readers=[exporter.PrometheusMetricReader()])
    with tito.instrument(meter_provider=provider) as handle:
        call = handle.kind(Target("generate", "vllm", "vllm_generate", "m", "host", 80)).begin(1)
        call.answered(200, 1, 1, True)
        call.retried("503")
        call.refused("rows")
        call.failed("TransportError", True)
        part = {"version": "step_7", "start": 0, "end": 1}
        kept: Any = SimpleNamespace(token_ids=[1], routed_experts=None, weight_versions=[part], timing=None)
        call.kept(kept, 0, 0)
        text = prometheus.generate_latest().decode()
    provider.shutdown()
    exported = set(re.findall(r"^(\w+)[{ ]", text, re.MULTILINE))
    board = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
    asked = {
        name
        for panel in board["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\bdynamo_tito_(?:client|pool)_\w+", target["expr"])
    }
    assert {name for name in asked if not name.endswith("result")} <= exported
    ours = {name for name in exported if name.startswith("dynamo_tito")}
    # The sums of distributions, of which it shows the buckets.
    sums = {"dynamo_tito_client_duration_seconds_total", "dynamo_tito_client_first_token_seconds_total"}
    assert ours - asked == sums
