#!/usr/bin/env python3
"""A receiver of OTLP traces for tests: gRPC and HTTP with the official generated code.

    otlp_receiver.py [--grpc PORT] [--http PORT]      0, the default: a free port

Prints one JSON line with both ports, then keeps every span in memory. On the HTTP port:
POST /v1/traces takes spans; GET /spans tells them as JSON, each with its resource and the headers it
came with; GET /tree draws every trace as a tree. Ends when its standard input does.
"""

import argparse
import json
import sys
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as service_grpc
from opentelemetry.proto.trace.v1 import trace_pb2 as trace

KINDS = {number: name.removeprefix("SPAN_KIND_").lower() for name, number in trace.Span.SpanKind.items()}
STATUSES = {number: name.removeprefix("STATUS_CODE_").lower() for name, number in trace.Status.StatusCode.items()}
# Left out of the tree: the same in every trace, or longer than a line.
QUIET = {"gen_ai.operation.name", "weir.request.id", "weir.tenant", "weir.generation", "weir.plan", "gen_ai.output.type"}

spans = []
lock = threading.Lock()


def value_of(any_value):
    kind = any_value.WhichOneof("value")
    if kind == "array_value":
        return [value_of(one) for one in any_value.array_value.values]
    return getattr(any_value, kind) if kind else None


def attributes(pairs):
    return {pair.key: value_of(pair.value) for pair in pairs}


def told(span, resource, headers):
    return {
        "trace_id": span.trace_id.hex(),
        "span_id": span.span_id.hex(),
        "parent": span.parent_span_id.hex(),
        "state": span.trace_state,
        "flags": span.flags,
        "name": span.name,
        "kind": KINDS[span.kind],
        "start": span.start_time_unix_nano,
        "end": span.end_time_unix_nano,
        "attributes": attributes(span.attributes),
        "events": [
            {"name": event.name, "at": event.time_unix_nano, "attributes": attributes(event.attributes)}
            for event in span.events
        ],
        "links": [{"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()} for link in span.links],
        "status": STATUSES[span.status.code],
        "message": span.status.message,
        "resource": resource,
        "headers": headers,
    }


def take(request, headers):
    with lock:
        for of_resource in request.resource_spans:
            resource = attributes(of_resource.resource.attributes)
            for of_scope in of_resource.scope_spans:
                spans.extend(told(span, resource, headers) for span in of_scope.spans)


class Grpc(service_grpc.TraceServiceServicer):
    def Export(self, request, context):
        take(request, {key: value for key, value in context.invocation_metadata() if isinstance(value, str)})
        return service.ExportTraceServiceResponse()


class Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.path != "/v1/traces" or self.headers["content-type"] != "application/x-protobuf":
            return self.answer(404, "text/plain", b"")
        request = service.ExportTraceServiceRequest()
        request.ParseFromString(body)
        take(request, {key.lower(): value for key, value in self.headers.items()})
        return self.answer(200, "application/x-protobuf", service.ExportTraceServiceResponse().SerializeToString())

    def do_GET(self):
        with lock:
            found = list(spans)
        if self.path == "/spans":
            return self.answer(200, "application/json", json.dumps(found).encode())
        if self.path == "/tree":
            return self.answer(200, "text/plain; charset=utf-8", tree(found).encode())
        return self.answer(404, "text/plain", b"")

    def answer(self, status, media, body):
        self.send_response(status)
        self.send_header("content-type", media)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def tree(found):
    lines = []
    ids = {span["span_id"] for span in found}
    for root in sorted((span for span in found if span["parent"] not in ids), key=lambda span: span["start"]):
        lines.append(f"trace {root['trace_id']}")
        lines.extend(drawn(root, found, root["start"], "", ""))
    return "\n".join(lines) + "\n"


def drawn(span, found, origin, first, rest):
    since, took = (span["start"] - origin) / 1e6, (span["end"] - span["start"]) / 1e6
    status = "" if span["status"] == "unset" else f" {span['status']}: {span['message']}"
    yield f"{first}{span['name']} [{span['kind']}] +{since:.1f} ms, {took:.1f} ms{status}"
    children = sorted(
        (child for child in found if child["parent"] == span["span_id"] and child["trace_id"] == span["trace_id"]),
        key=lambda child: child["start"],
    )
    margin = rest + ("│  " if children else "   ")
    for key, value in span["attributes"].items():
        if key not in QUIET:
            yield f"{margin}{key} = {value}"
    for event in span["events"]:
        about = ", ".join(f"{key} = {value}" for key, value in event["attributes"].items())
        yield f"{margin}* {event['name']} +{(event['at'] - origin) / 1e6:.1f} ms{about and ': '}{about}"
    for link in span["links"]:
        yield f"{margin}-> trace {link['trace_id']} span {link['span_id']}"
    for place, child in enumerate(children):
        last = place + 1 == len(children)
        yield from drawn(child, found, origin, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--grpc", type=int, default=0)
    parser.add_argument("--http", type=int, default=0)
    asked = parser.parse_args()
    rpc = grpc.server(futures.ThreadPoolExecutor(max_workers=2))
    service_grpc.add_TraceServiceServicer_to_server(Grpc(), rpc)
    grpc_port = rpc.add_insecure_port(f"127.0.0.1:{asked.grpc}")
    rpc.start()
    web = ThreadingHTTPServer(("127.0.0.1", asked.http), Http)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    print(json.dumps({"grpc": grpc_port, "http": web.server_address[1]}), flush=True)
    sys.stdin.read()
    rpc.stop(0)


if __name__ == "__main__":
    main()
