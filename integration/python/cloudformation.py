"""Reads CloudFormation templates and resolves them for given parameters, so that what they would create can be compared.

It is not CloudFormation: it creates nothing, and stops at the first intrinsic function that it does not know. What a resource
would be told only after its creation is a token in the words of Terraform, such as `<queue[A].arn>`.

Invariant: a resource that `Stack` gives has no intrinsic function in it.
"""

import functools
import re

import yaml


class Loader(yaml.SafeLoader):
    """YAML with the short forms of intrinsic functions."""


def _intrinsic(loader, suffix, node):
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
        value = value.split(".", 1) if suffix == "GetAtt" else value
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


Loader.add_multi_constructor("!", _intrinsic)


def load(path):
    text = path.read_text()
    tokens = [type(token) for token in yaml.scan(text)]
    assert yaml.AliasToken not in tokens, f"{path.name}: CloudFormation takes no YAML aliases"
    return yaml.load(text, Loader)


PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": "eu-west-1",
    "AWS::AccountId": "123456789012",
    "AWS::StackName": "legation",
}
NOTHING = object()

# What `Ref` means, and what attributes are called in Terraform.
REFS = {
    "AWS::SQS::Queue": "url",
    "AWS::SNS::Topic": "arn",
    "AWS::Logs::LogGroup": "name",
    "AWS::EC2::SecurityGroup": "id",
    "AWS::IAM::Role": "name",
    "AWS::ECS::TaskDefinition": "arn",
    "AWS::ElasticLoadBalancingV2::LoadBalancer": "arn",
    "AWS::ElasticLoadBalancingV2::TargetGroup": "arn",
}
ATTRIBUTES = {
    "Arn": "arn",
    "QueueName": "name",
    "DNSName": "dns_name",
    "CanonicalHostedZoneID": "zone_id",
    "LoadBalancerFullName": "arn_suffix",
    "TargetGroupFullName": "arn_suffix",
}


def snake(name):
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _put(value, name, by):
    """`value` with the loop's `name` replaced, as Fn::ForEach does before anything else."""
    if isinstance(value, dict):
        if value == {"Ref": name}:
            return by
        return {_put(key, name, by): _put(inner, name, by) for key, inner in value.items()}
    if isinstance(value, list):
        return [_put(inner, name, by) for inner in value]
    if isinstance(value, str):
        return value.replace(f"${{{name}}}", by).replace(f"&{{{name}}}", re.sub("[^A-Za-z0-9]", "", by))
    return value


def _allowed(declared, value):
    """Whether a parameter may have this value; of a list each item must be allowed."""
    for item in value if isinstance(value, list) else [value]:
        allowed = [str(one) for one in declared.get("AllowedValues", [item])]
        if item not in allowed or not re.fullmatch(declared.get("AllowedPattern", ".*"), item, re.DOTALL):
            return False
        if len(item) < declared.get("MinLength", 0):
            return False
        if declared["Type"] == "Number":
            number = int(item) if re.fullmatch("-?[0-9]+", item) else float("nan")
            if not declared.get("MinValue", float("-inf")) <= number <= declared.get("MaxValue", float("inf")):
                return False
    return True


class Stack:
    """A template with its parameters: `resources` by logical id, and what it puts out."""

    def __init__(self, template, parameters):
        self.template = template
        declared = template["Parameters"]
        strangers = set(parameters) - set(declared)
        assert not strangers, f"no such parameters: {sorted(strangers)}"
        missing = {name for name, it in declared.items() if "Default" not in it} - set(parameters)
        assert not missing, f"parameters without a value: {sorted(missing)}"
        self.parameters = {name: self._parameter(it, parameters.get(name, it.get("Default"))) for name, it in declared.items()}
        self.raw = self._expand(template["Resources"])
        self.present = {name for name, it in self.raw.items() if self._holds(it.get("Condition"))}

    @functools.cached_property
    def resources(self):
        present = {name: self.raw[name] for name in self.raw if name in self.present}
        return {name: {"Type": it["Type"], "Properties": self.resolve(it.get("Properties", {}))} for name, it in present.items()}

    @staticmethod
    def _parameter(declared, value):
        if not declared["Type"].startswith(("List<", "CommaDelimitedList")):
            return str(value)
        return value.split(",") if isinstance(value, str) else [str(item) for item in value]

    def outputs(self):
        return {name: self.resolve(it["Value"]) for name, it in self._expand(self.template.get("Outputs", {})).items()}

    def of_type(self, kind):
        return {name: it["Properties"] for name, it in self.resources.items() if it["Type"] == kind}

    def refusals(self):
        """What is wrong with the parameters: by their own declarations, and by the assertions in `Rules`."""
        found = [name for name, declared in self.template["Parameters"].items() if not _allowed(declared, self.parameters[name])]
        assertions = [it for rule in self.template.get("Rules", {}).values() for it in rule["Assertions"]]
        return found + [it["AssertDescription"] for it in assertions if not self._condition(it["Assert"])]

    def _expand(self, section):
        result = {}
        for name, value in section.items():
            if not name.startswith("Fn::ForEach::"):
                result[name] = value
                continue
            loop, items, body = value
            for item in self.parameters[items["Ref"]]:
                for key, inner in body.items():
                    assert _put(key, loop, item) not in result, f"{key} for {item} is there twice"
                    result[_put(key, loop, item)] = _put(inner, loop, item)
        return result

    def _holds(self, condition):
        return condition is None or self._condition(self.template["Conditions"][condition])

    def _condition(self, value):
        ((function, of),) = value.items()
        if function == "Condition":
            return self._holds(of)
        if function == "Fn::Equals":
            return self.resolve(of[0]) == self.resolve(of[1])
        return {"Fn::Not": lambda: not self._condition(of[0]), "Fn::And": lambda: all(map(self._condition, of)),
                "Fn::Or": lambda: any(map(self._condition, of))}[function]()

    def resolve(self, value):
        if isinstance(value, list):
            resolved = [self.resolve(inner) for inner in value]
            return [inner for inner in resolved if inner is not NOTHING]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((function, of),) = value.items()
            if function == "Ref":
                return self._ref(self.resolve(of))
            if function.startswith("Fn::"):
                return self._function(function, of)
        resolved = {key: self.resolve(inner) for key, inner in value.items()}
        return {key: inner for key, inner in resolved.items() if inner is not NOTHING}

    def _ref(self, name):
        if name == "AWS::NoValue":
            return NOTHING
        if name in PSEUDO:
            return PSEUDO[name]
        if name in self.parameters:
            return self.parameters[name]
        return self._later(name, None)

    def _later(self, name, attribute):
        """What a resource is told only after its creation: what `Ref` means, or an attribute."""
        assert name in self.present, f"{name} is referred to and not created"
        attribute = ATTRIBUTES[attribute] if attribute else REFS[self.raw[name]["Type"]]
        replica = re.fullmatch(r"(\w+[a-z])([ABC])", name)
        noun, key = replica.groups() if replica else (name, None)
        return f"<{snake(noun)}[{key}].{attribute}>" if key else f"<{snake(noun)}.{attribute}>"

    def _function(self, function, of):
        if function == "Fn::If":
            condition, yes, no = of
            return self.resolve(yes if self._holds(condition) else no)
        if function == "Fn::Sub":
            return self._sub(*(of if isinstance(of, list) else [of, {}]))
        of = self.resolve(of)
        if function == "Fn::GetAtt":
            return self._later(of[0], of[1])
        if function == "Fn::Join":
            return of[0].join(of[1])
        if function == "Fn::Split":
            return of[1].split(of[0])
        if function == "Fn::Select":
            return of[1][int(of[0])]
        if function == "Fn::FindInMap":
            return self.template["Mappings"][of[0]][of[1]][of[2]]
        raise NotImplementedError(function)

    def _sub(self, text, names):
        names = {name: self.resolve(value) for name, value in names.items()}

        def value(match):
            name = match.group(1)
            if name in names:
                return names[name]
            resource, _, attribute = name.partition(".")
            return self._later(resource, attribute) if attribute else self._ref(name)

        return re.sub(r"\$\{([^}!]+)\}", value, text)


class Plain(Stack):
    """The stack as a template without loops, conditions and parameters, for emulators that know few of them."""

    def template_of(self, *types):
        """As CreateStack takes it, with the resources of these types alone."""
        chosen = {name: it for name, it in self.resources.items() if it["Type"] in types}
        return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": chosen}

    def _later(self, name, attribute):
        return {"Fn::GetAtt": [name, attribute]} if attribute else {"Ref": name}
