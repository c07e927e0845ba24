"""Renders the chart in `charts/legation` with Helm's own library, and knows what its objects may look like.

No cluster is asked. It holds no test; `test_chart.py` has them.
"""

import copy
import json
import pathlib

import helm_python
import jsonschema
import kubernetes_validate
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "legation"
CASES = CHART / "tests"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
# The oldest that Chart.yaml allows, and the newest that the validator knows.
KUBERNETES = ("1.30", "1.37")
LOADED = helm_python.Chart.load(CHART)

# What we use of the Prometheus Operator's own kinds.
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
DURATION = {"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"}


def strict(required, **properties):
    return {"type": "object", "additionalProperties": False, "required": required, "properties": properties}


def many(items):
    return {"type": "array", "items": items, "minItems": 1}


METADATA = strict(["name", "namespace", "labels"], name={"type": "string"}, namespace={"type": "string"}, labels=TEXTS)
ENDPOINT = strict(
    ["port", "path", "honorLabels"], port={"type": "string"}, path={"const": "/metrics"}, honorLabels={"const": True},
    interval=DURATION,
)
RULE = strict(
    ["alert", "expr", "labels", "annotations"],
    alert={"type": "string", "pattern": "^Legation[A-Z][A-Za-z]+$"},
    expr={"type": "string"},
    labels=strict(["severity"], severity={"enum": ["critical", "warning"]}),
    annotations=strict(["summary", "description"], summary={"type": "string"}, description={"type": "string"}),
    **{"for": DURATION},
)
GROUP = strict(["name", "rules"], name={"const": "legation"}, rules=many(RULE))
SELECTOR = strict(["matchLabels"], matchLabels=TEXTS)


def custom(kind, spec):
    head = {"apiVersion": {"const": "monitoring.coreos.com/v1"}, "kind": {"const": kind}, "metadata": METADATA}
    return strict([*head, "spec"], **head, spec=spec)


CUSTOM = {
    "ServiceMonitor": custom(
        "ServiceMonitor",
        strict(["selector", "endpoints"], selector=SELECTOR, endpoints=many(ENDPOINT)),
    ),
    "PrometheusRule": custom("PrometheusRule", strict(["groups"], groups=many(GROUP))),
}


def case(name):
    return yaml.safe_load((CASES / f"{name}.in.yaml").read_text())


def with_values(values, more):
    """Values with others above them, as Helm lays them: maps are merged, all else is replaced."""
    both = copy.deepcopy(values)
    for key, value in more.items():
        merges = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = with_values(both[key], value) if merges else copy.deepcopy(value)
    return both


def render(values, name="legation", namespace="mesh"):
    return LOADED.render(values, name=name, namespace=namespace)


def whole(values):
    """The whole render as one text: every object, then what is told to whoever installs."""
    files = render(values)
    notes = files.pop("legation/templates/NOTES.txt")
    parts = [f"---\n# Source: {name}\n{files[name].strip()}\n" for name in sorted(files) if files[name].strip()]
    told = "".join(f"# {line}".rstrip() + "\n" for line in notes.strip().splitlines())
    return "".join(parts) + "---\n# NOTES.txt\n#\n" + told


def objects(values, **release):
    """Every object, by kind and name."""
    files = render(values, **release)
    texts = [text for name, text in sorted(files.items()) if not name.endswith("NOTES.txt")]
    found = [one for text in texts for one in yaml.safe_load_all(text) if one]
    by_name = {(one["kind"], one["metadata"]["name"]): one for one in found}
    assert len(by_name) == len(found), "two objects of one kind and name"
    return by_name


def check(one):
    """Fails where Kubernetes would refuse an object, or drop a field of it."""
    if one["kind"] in CUSTOM:
        jsonschema.validate(one, CUSTOM[one["kind"]])
        return
    for version in KUBERNETES:
        kubernetes_validate.validate(one, version, strict=True)


def only(found, kind):
    one, = (one for (of, _), one in found.items() if of == kind)
    return one


def workload(found):
    one, = (one for (kind, _), one in found.items() if kind in ("Deployment", "StatefulSet"))
    return one


def data(found, ending):
    one, = (one for (kind, name), one in found.items() if kind == "ConfigMap" and name.endswith(ending))
    return one.get("data", {})


def leaves(values, path=()):
    """The path of every key that has no keys of its own."""
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key)


def at(values, path):
    for key in path:
        if not isinstance(values, dict) or key not in values:
            return None
        values = values[key]
    return values


def without(values, path):
    less = copy.deepcopy(values)
    del at(less, path[:-1])[path[-1]]
    return less


def said_of(path, schema=SCHEMA):
    """What the schema says of a key; nothing where it does not know it."""
    for key in path:
        schema = resolved(schema)
        schema = schema.get("properties", {}).get(key) or schema.get("additionalProperties")
        if not schema:
            return None
    return resolved(schema)


def resolved(schema):
    return SCHEMA["definitions"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
