//! Which namespace of Cloud Map is meant: by its name, or by the ARN of one that another account shares.
//!
//! It is not about what is in it.
//!
//! Invariant: every replica takes the same one, this account's own before any that is shared; between several shared ones
//! only an ARN decides.

use aws_sdk_servicediscovery::types::{NamespaceFilterName, NamespaceSummary};

use super::calls::{Calls, LIST_NAMESPACES};
use crate::source::aws::bad_response;
use crate::source::{SourceError, words};

const OWN: &str = "SELF";
const SHARED: &str = "OTHER_ACCOUNTS";

/// The namespace as calls name it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// Its id; its ARN where another account shares it.
    pub reference: String,
    /// Discovery's name for it, which may differ from the one that people see.
    pub http_name: String,
    /// The account that shares it; `None` if it is this account's own.
    pub owner: Option<String>,
    /// For people: `prod.local`, or `222222222222/prod.local` where another account shares it.
    pub label: String,
    /// The ARNs of those of the same name that are not read.
    pub namesakes: Vec<String>,
}

impl Found {
    fn new(namespace: &NamespaceSummary, is_shared: bool) -> Result<Self, SourceError> {
        let lacks = |what: &str| bad_response(LIST_NAMESPACES, format!("a namespace lacks `{what}`"));
        let name = namespace.name().ok_or_else(|| lacks("Name"))?;
        let properties = namespace.properties().and_then(|properties| properties.http_properties());
        let http_name = properties.and_then(|http| http.http_name()).unwrap_or(name).to_owned();
        if !is_shared {
            let reference = namespace.id().ok_or_else(|| lacks("Id"))?.to_owned();
            return Ok(Self {
                reference,
                http_name,
                owner: None,
                label: name.to_owned(),
                namesakes: Vec::new(),
            });
        }
        let reference = namespace.arn().ok_or_else(|| lacks("Arn"))?.to_owned();
        let owner = namespace.resource_owner().or_else(|| account_of(&reference));
        let owner = owner.ok_or_else(|| lacks("ResourceOwner"))?.to_owned();
        let label = format!("{owner}/{name}");
        Ok(Self { reference, http_name, owner: Some(owner), label, namesakes: Vec::new() })
    }
}

fn account_of(arn: &str) -> Option<&str> {
    arn.split(':').nth(4)
}

/// Finds the namespace with this name or ARN.
pub(super) async fn find(calls: &Calls, wanted: &str) -> Result<Found, SourceError> {
    if wanted.starts_with("arn:") { by_arn(calls, wanted).await } else { by_name(calls, wanted).await }
}

async fn by_name(calls: &Calls, wanted: &str) -> Result<Found, SourceError> {
    let own = named(calls, wanted, OWN).await?;
    let mut shared = named(calls, wanted, SHARED).await?;
    shared.retain(|one| own.iter().all(|other| other.arn() != one.arn()));
    let arns = || shared.iter().filter_map(NamespaceSummary::arn).map(str::to_owned).collect::<Vec<_>>();
    match (own.first(), shared.as_slice()) {
        (Some(namespace), _) => Ok(Found { namesakes: arns(), ..Found::new(namespace, false)? }),
        (None, [only]) => Found::new(only, true),
        (None, []) => {
            let all = calls.namespaces(&[]).await?;
            let names = all.iter().filter_map(NamespaceSummary::name).collect();
            Err(not_found(&format!("no Cloud Map namespace is called `{wanted}`; there are"), wanted, names))
        }
        (None, _) => Err(SourceError {
            operation: LIST_NAMESPACES.into(),
            code: "NamespaceAmbiguous".into(),
            message: format!(
                "several accounts share a Cloud Map namespace called `{wanted}`; write the ARN of one: {}",
                arns().join(", ")
            ),
        }),
    }
}

/// The namespaces of that name, in an order of their own: two private DNS namespaces may share a name.
async fn named(calls: &Calls, wanted: &str, owner: &str) -> Result<Vec<NamespaceSummary>, SourceError> {
    let filters = [(NamespaceFilterName::Name, wanted), (NamespaceFilterName::ResourceOwner, owner)];
    let mut found = calls.namespaces(&filters).await?;
    found.retain(|namespace| namespace.name() == Some(wanted));
    found.sort_by(|a, b| (a.id(), a.arn()).cmp(&(b.id(), b.arn())));
    found.dedup_by(|a, b| a.arn() == b.arn() && a.id() == b.id());
    Ok(found)
}

async fn by_arn(calls: &Calls, wanted: &str) -> Result<Found, SourceError> {
    let mut arns = Vec::new();
    for owner in [SHARED, OWN] {
        let all = calls.namespaces(&[(NamespaceFilterName::ResourceOwner, owner)]).await?;
        if let Some(namespace) = all.iter().find(|namespace| namespace.arn() == Some(wanted)) {
            return Found::new(namespace, owner == SHARED);
        }
        arns.extend(all.into_iter().filter_map(|namespace| namespace.arn));
    }
    let names = arns.iter().map(String::as_str).collect();
    let what =
        format!("no Cloud Map namespace with the ARN `{wanted}` is shared with this account; there are");
    Err(not_found(&what, wanted, names))
}

fn not_found(what: &str, wanted: &str, mut names: Vec<&str>) -> SourceError {
    names.sort_unstable();
    names.dedup();
    let near = words::did_you_mean(wanted, names.iter().copied());
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let (operation, code) = (LIST_NAMESPACES.into(), "NamespaceNotFound".into());
    SourceError { operation, code, message: format!("{what}: {names}{near}") }
}
