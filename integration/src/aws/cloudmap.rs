//! What the Cloud Map operations answer.
//!
//! Reads only. As at AWS, ListNamespaces and ListServices take a page first and filter it afterwards, so
//! a page may be empty and still have a successor. Invariant: `InstancesRevision` is the registry's own
//! and never depends on health.

use serde_json::{Map, Value, json};

use super::render::time;
use super::wire::{ApiError, Input, Operation, Pager};
use crate::world::{Health, HealthCheck, Instance, MapService, Namespace, NamespaceKind, State};

type Answer = Result<Value, ApiError>;

pub(super) fn answer(operation: Operation, state: &State, input: Input<'_>) -> Answer {
    match operation {
        Operation::ListNamespaces => list_namespaces(state, input),
        Operation::GetNamespace => get_namespace(state, input),
        Operation::ListMapServices => list_services(state, input),
        Operation::GetMapService => get_service(state, input),
        Operation::GetServiceAttributes => get_service_attributes(state, input),
        Operation::ListInstances => list_instances(state, input),
        Operation::GetInstancesHealthStatus => get_instances_health_status(state, input),
        Operation::DiscoverInstances => discover_instances(state, input),
        Operation::DiscoverInstancesRevision => discover_instances_revision(state, input),
        other => Err(ApiError::server(other.api())),
    }
}

fn set(value: &mut Value, key: &str, member: Value) {
    if let Some(members) = value.as_object_mut() {
        members.insert(key.to_owned(), member);
    }
}

/// A resource by id or ARN.
fn id_of(reference: &str) -> &str {
    match reference.starts_with("arn:") {
        true => reference.rsplit('/').next().unwrap_or(reference),
        false => reference,
    }
}

fn namespace<'a>(state: &'a State, reference: &str) -> Result<&'a Namespace, ApiError> {
    let found = state.namespaces.get(id_of(reference));
    let own = |ns: &Namespace| ns.owner == state.account && ns.id == reference;
    let found = found.filter(|ns| own(ns) || ns.arn == reference);
    found.ok_or_else(|| {
        ApiError::new("NamespaceNotFound", format!("Namespace not found, namespaceId: {reference}"))
    })
}

fn service<'a>(state: &'a State, reference: &str) -> Result<&'a MapService, ApiError> {
    let found = state.map_services.get(id_of(reference));
    // What others share goes by its ARN alone.
    let own = |service: &MapService| owner(state, service) == state.account && service.id == reference;
    let found = found.filter(|service| own(service) || service.arn == reference);
    found
        .ok_or_else(|| ApiError::new("ServiceNotFound", format!("Service not found, serviceId: {reference}")))
}

/// The account that a service's namespace belongs to.
fn owner<'a>(state: &'a State, service: &MapService) -> &'a str {
    state.namespaces.get(&service.namespace_id).map_or(&state.account, |namespace| &namespace.owner)
}

/// What RESOURCE_OWNER calls an account.
fn side(state: &State, owner: &str) -> &'static str {
    if owner == state.account { "SELF" } else { "OTHER_ACCOUNTS" }
}

/// One filter: EQ needs one value, IN several; BEGINS_WITH a prefix.
struct Filter<'a> {
    name: &'a str,
    values: Vec<&'a str>,
    prefix: bool,
}

fn filters<'a>(input: Input<'a>, known: &[&str]) -> Result<Vec<Filter<'a>>, ApiError> {
    let mut filters = Vec::new();
    for filter in input.structures("Filters")? {
        let name = filter.required("Name")?;
        let values = filter.strings("Values")?;
        let condition = filter.string("Condition")?.unwrap_or("EQ");
        if !known.contains(&name) {
            return Err(ApiError::input(format!("Unknown filter name: {name}")));
        }
        if !["EQ", "IN", "BEGINS_WITH"].contains(&condition) {
            return Err(ApiError::input(format!("Condition {condition} is not supported for {name}")));
        }
        if values.is_empty() || (condition != "IN" && values.len() > 1) {
            return Err(ApiError::input(format!("Condition {condition} needs one value for {name}")));
        }
        filters.push(Filter { name, values, prefix: condition == "BEGINS_WITH" });
    }
    Ok(filters)
}

impl Filter<'_> {
    fn admits(&self, value: &str) -> bool {
        self.values
            .iter()
            .any(|wanted| if self.prefix { value.starts_with(wanted) } else { value == *wanted })
    }

    /// What a page token is bound to.
    fn scope(filters: &[Self]) -> String {
        let one = |filter: &Self| format!("{}{}{}", filter.name, filter.prefix, filter.values.join(","));
        filters.iter().map(one).collect::<Vec<_>>().join(";")
    }
}

fn list_namespaces(state: &State, input: Input<'_>) -> Answer {
    let filters = filters(input, &["TYPE", "NAME", "HTTP_NAME", "RESOURCE_OWNER"])?;
    let pager = Pager::new(Operation::ListNamespaces, &[&Filter::scope(&filters)], input)?;
    let (page, mut answer) = pager.page(state.namespaces.iter().map(|(id, ns)| (id.clone(), ns)));
    let admitted = page.into_iter().map(|(_, ns)| ns).filter(|ns| {
        filters.iter().all(|filter| match filter.name {
            "TYPE" => filter.admits(ns.kind.as_str()),
            "NAME" => filter.admits(&ns.name),
            "HTTP_NAME" => filter.admits(&ns.http_name),
            _ => filter.admits(side(state, &ns.owner)),
        })
    });
    let shown: Value = admitted.map(|ns| render_namespace(state, ns)).collect();
    answer.insert("Namespaces".to_owned(), shown);
    Ok(Value::Object(answer))
}

fn get_namespace(state: &State, input: Input<'_>) -> Answer {
    let namespace = namespace(state, input.required("Id")?)?;
    let mut shown = render_namespace(state, namespace);
    set(&mut shown, "CreatorRequestId", json!(namespace.id));
    Ok(json!({ "Namespace": shown }))
}

fn render_namespace(state: &State, namespace: &Namespace) -> Value {
    let services = state.map_services.values().filter(|s| s.namespace_id == namespace.id).count();
    let mut properties = Map::new();
    if namespace.kind != NamespaceKind::Http {
        let zone = format!("Z{}", namespace.id.trim_start_matches("ns-").to_uppercase());
        properties.insert("DnsProperties".to_owned(), json!({ "HostedZoneId": zone, "SOA": { "TTL": 15 } }));
    }
    properties.insert("HttpProperties".to_owned(), json!({ "HttpName": namespace.http_name }));
    json!({
        "Id": namespace.id,
        "Arn": namespace.arn,
        "ResourceOwner": namespace.owner,
        "Name": namespace.name,
        "Type": namespace.kind.as_str(),
        "ServiceCount": services,
        "Properties": properties,
        "CreateDate": time(&namespace.created),
    })
}

fn list_services(state: &State, input: Input<'_>) -> Answer {
    let filters = filters(input, &["NAMESPACE_ID", "RESOURCE_OWNER"])?;
    let pager = Pager::new(Operation::ListMapServices, &[&Filter::scope(&filters)], input)?;
    let (page, mut answer) = pager.page(state.map_services.iter().map(|(id, service)| (id.clone(), service)));
    let admitted = page.into_iter().map(|(_, service)| service).filter(|service| {
        filters.iter().all(|filter| match filter.name {
            "NAMESPACE_ID" => {
                let wanted =
                    |wanted: &&str| namespace(state, wanted).is_ok_and(|ns| ns.id == service.namespace_id);
                filter.values.iter().any(wanted)
            }
            _ => filter.admits(side(state, owner(state, service))),
        })
    });
    let shown: Value = admitted.map(|service| render_service(state, service)).collect();
    answer.insert("Services".to_owned(), shown);
    Ok(Value::Object(answer))
}

fn get_service(state: &State, input: Input<'_>) -> Answer {
    let service = service(state, input.required("Id")?)?;
    let mut shown = render_service(state, service);
    set(&mut shown, "NamespaceId", json!(service.namespace_id));
    set(&mut shown, "CreatorRequestId", json!(service.id));
    Ok(json!({ "Service": shown }))
}

fn render_service(state: &State, service: &MapService) -> Value {
    let kind = state.namespaces.get(&service.namespace_id).map(|ns| ns.kind);
    let dns = kind.is_some_and(|kind| kind != NamespaceKind::Http);
    let mut shown = json!({
        "Id": service.id,
        "Arn": service.arn,
        "ResourceOwner": owner(state, service),
        "Name": service.name,
        "Type": if dns { "DNS_HTTP" } else { "HTTP" },
        "InstanceCount": service.instances.len(),
        "CreateDate": time(&service.created),
        "CreatedByAccount": state.account,
    });
    if dns {
        let records = json!([{ "Type": "A", "TTL": 60 }]);
        let config = json!({ "NamespaceId": service.namespace_id, "RoutingPolicy": "MULTIVALUE", "DnsRecords": records });
        set(&mut shown, "DnsConfig", config);
    }
    match service.health_check {
        HealthCheck::None => {}
        HealthCheck::Custom => set(&mut shown, "HealthCheckCustomConfig", json!({ "FailureThreshold": 1 })),
        HealthCheck::Route53 => {
            let config = json!({ "Type": "HTTP", "ResourcePath": "/", "FailureThreshold": 3 });
            set(&mut shown, "HealthCheckConfig", config);
        }
    }
    shown
}

fn get_service_attributes(state: &State, input: Input<'_>) -> Answer {
    let service = service(state, input.required("ServiceId")?)?;
    let owner = owner(state, service);
    Ok(json!({ "ServiceAttributes": {
        "ServiceArn": service.arn, "ResourceOwner": owner, "Attributes": service.attributes,
    } }))
}

fn list_instances(state: &State, input: Input<'_>) -> Answer {
    let service = service(state, input.required("ServiceId")?)?;
    let pager = Pager::new(Operation::ListInstances, &[&service.id], input)?;
    let (page, mut answer) =
        pager.page(service.instances.iter().map(|(id, instance)| (id.clone(), instance)));
    let shown = page.into_iter().map(|(id, instance)| {
        json!({ "Id": id, "Attributes": attributes(instance), "CreatedByAccount": state.account })
    });
    answer.insert("ResourceOwner".to_owned(), json!(owner(state, service)));
    answer.insert("Instances".to_owned(), shown.collect());
    Ok(Value::Object(answer))
}

/// The attributes as they are shown: the first status of a check is not kept.
fn attributes(instance: &Instance) -> Value {
    let shown = instance.attributes.iter().filter(|(key, _)| *key != "AWS_INIT_HEALTH_STATUS");
    Value::Object(shown.map(|(key, value)| (key.clone(), json!(value))).collect())
}

fn get_instances_health_status(state: &State, input: Input<'_>) -> Answer {
    let service = service(state, input.required("ServiceId")?)?;
    let wanted = input.strings("Instances")?;
    if let Some(unknown) = wanted.iter().find(|id| !service.instances.contains_key(**id)) {
        return Err(ApiError::new("InstanceNotFound", format!("Instance not found, instanceId: {unknown}")));
    }
    let scope = wanted.join(",");
    let pager = Pager::new(Operation::GetInstancesHealthStatus, &[&service.id, &scope], input)?;
    let chosen =
        service.instances.iter().filter(|(id, _)| wanted.is_empty() || wanted.contains(&id.as_str()));
    let (page, mut answer) = pager.page(chosen.map(|(id, instance)| (id.clone(), instance.health)));
    let shown: Map<String, Value> =
        page.into_iter().map(|(id, health)| (id, json!(health.as_str()))).collect();
    answer.insert("Status".to_owned(), Value::Object(shown));
    Ok(Value::Object(answer))
}

/// The service that DiscoverInstances means: a namespace by HTTP name, a service by name.
fn discovered<'a>(state: &'a State, input: Input<'_>) -> Result<(&'a Namespace, &'a MapService), ApiError> {
    let (wanted, name) = (input.required("NamespaceName")?, input.required("ServiceName")?);
    let owner = input.string("OwnerAccount")?.unwrap_or(&state.account);
    let namespace = state.namespaces.values().find(|ns| ns.owner == owner && ns.http_name == wanted);
    let namespace = namespace.ok_or_else(|| {
        ApiError::new("NamespaceNotFound", format!("No namespace found with name: {wanted}"))
    })?;
    let service = state.map_services.values().find(|s| s.namespace_id == namespace.id && s.name == name);
    let service = service
        .ok_or_else(|| ApiError::new("ServiceNotFound", format!("No service found with name: {name}")))?;
    Ok((namespace, service))
}

fn discover_instances(state: &State, input: Input<'_>) -> Answer {
    let (namespace, service) = discovered(state, input)?;
    let most = input.count("MaxResults", 100, 1000)?;
    let status = input.string("HealthStatus")?.unwrap_or("HEALTHY_OR_ELSE_ALL");
    if !["HEALTHY", "UNHEALTHY", "ALL", "HEALTHY_OR_ELSE_ALL"].contains(&status) {
        return Err(ApiError::input(format!("HealthStatus {status} is not supported")));
    }
    let (required, optional) = (input.map("QueryParameters")?, input.map("OptionalParameters")?);
    let all = service.instances.iter();
    let mut chosen: Vec<_> = all.filter(|(_, instance)| matches(instance, &required)).collect();
    if chosen.iter().any(|(_, instance)| matches(instance, &optional)) {
        chosen.retain(|(_, instance)| matches(instance, &optional));
    }
    // Without a check, the filter is ignored.
    if service.health_check != HealthCheck::None {
        let any_healthy = chosen.iter().any(|(_, instance)| instance.health == Health::Healthy);
        chosen.retain(|(_, instance)| match status {
            "ALL" => true,
            "HEALTHY_OR_ELSE_ALL" if !any_healthy => true,
            "UNHEALTHY" => instance.health == Health::Unhealthy,
            _ => instance.health == Health::Healthy,
        });
    }
    // AWS answers in no order; rotating by revision keeps callers from relying on one.
    if !chosen.is_empty() {
        let by = service.revision as usize % chosen.len();
        chosen.rotate_left(by);
    }
    let shown = chosen.into_iter().take(most).map(|(id, instance)| {
        json!({
            "InstanceId": id,
            "NamespaceName": namespace.http_name,
            "ServiceName": service.name,
            "HealthStatus": instance.health.as_str(),
            "Attributes": attributes(instance),
        })
    });
    Ok(json!({ "Instances": shown.collect::<Value>(), "InstancesRevision": service.revision }))
}

fn matches(instance: &Instance, wanted: &[(&str, &str)]) -> bool {
    wanted.iter().all(|(key, value)| instance.attributes.get(*key).is_some_and(|own| own == value))
}

fn discover_instances_revision(state: &State, input: Input<'_>) -> Answer {
    let (_, service) = discovered(state, input)?;
    Ok(json!({ "InstancesRevision": service.revision }))
}
