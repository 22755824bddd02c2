"""Installs a chart with the real Helm into an API server that only writes down what it is sent.

Usage: render.py LIBRARY CHART < CASES
CASES is a JSON object, case -> values. The answer on stdout is one too: case -> {"objects": […]} or {"error": "…"}, and
"lint" -> what `helm lint` says. LIBRARY is Helm's SDK behind a C interface, as the Python package helm-sdkpy ships it.
"""

import ctypes
import http.server
import json
import os
import sys
import tempfile
import threading

# What the chart's objects need: group/version -> kinds, with their plural and whether they live in a namespace.
RESOURCES = {
    "v1": [("ConfigMap", "configmaps", True), ("ServiceAccount", "serviceaccounts", True)],
    "apps/v1": [("DaemonSet", "daemonsets", True)],
    "rbac.authorization.k8s.io/v1": [
        ("ClusterRole", "clusterroles", False),
        ("ClusterRoleBinding", "clusterrolebindings", False),
    ],
    "monitoring.coreos.com/v1": [("PodMonitor", "podmonitors", True)],
}

received = []


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, body, status=200):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        if path == "version":
            return self.answer({"major": "1", "minor": "36", "gitVersion": "v1.36.2"})
        if path == "api":
            return self.answer({"kind": "APIVersions", "versions": ["v1"]})
        if path == "apis":
            groups = [version.split("/")[0] for version in RESOURCES if "/" in version]
            version = lambda group: {"groupVersion": f"{group}/v1", "version": "v1"}
            listed = [{"name": g, "versions": [version(g)], "preferredVersion": version(g)} for g in groups]
            return self.answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": listed})
        name = path.removeprefix("apis/").removeprefix("api/")
        if name in RESOURCES:
            verbs = ["create", "get", "list", "patch", "update", "delete"]
            listed = [
                {"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs}
                for kind, plural, namespaced in RESOURCES[name]
            ]
            return self.answer(
                {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}
            )
        self.answer({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}, 404)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        received.append(body)
        self.answer(body, 201)


def main():
    library = ctypes.CDLL(sys.argv[1])
    chart = sys.argv[2].encode()
    library.helm_sdkpy_last_error.restype = ctypes.c_char_p
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder = tempfile.TemporaryDirectory()
    kubeconfig = os.path.join(folder.name, "kubeconfig")
    with open(kubeconfig, "w") as file:
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": ""}}
        json.dump({"kind": "Config", "clusters": [cluster], "contexts": [context], "current-context": "c"}, file)

    answers = {}
    options = json.dumps({"wait": False, "timeout_seconds": 60, "disable_openapi_validation": True}).encode()
    for case, values in json.load(sys.stdin).items():
        received.clear()
        handle = ctypes.c_ulonglong()
        result = ctypes.c_char_p()
        created = library.helm_sdkpy_config_create(
            b"kube-system", kubeconfig.encode(), None, b"{}", ctypes.byref(handle)
        )
        failed = created or library.helm_sdkpy_install(
            handle, b"proxy-agent", chart, json.dumps(values).encode(), b"", options, ctypes.byref(result)
        )
        if failed:
            answers[case] = {"error": library.helm_sdkpy_last_error().decode()}
        else:
            answers[case] = {"objects": [dict(body) for body in received if body.get("type") != "helm.sh/release.v1"]}
    lint = ctypes.c_char_p()
    if library.helm_sdkpy_lint(handle, chart, ctypes.byref(lint)):
        answers["lint"] = {"error": library.helm_sdkpy_last_error().decode()}
    else:
        answers["lint"] = json.loads(lint.value)
    json.dump(answers, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
