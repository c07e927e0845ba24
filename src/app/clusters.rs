//! Which ECS clusters there are to watch, and what people call each.
//!
//! It asks nobody. Invariant: a cluster that several namespaces name is watched once, and no two are called the same.

use crate::config::{Config, Discover};
use crate::model::{ClusterId, account_of_role};
use crate::source::ecs::{self, NamespaceRule};

/// A cluster to watch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Cluster {
    pub(super) id: ClusterId,
    /// The role that it is watched with.
    pub(super) role: Option<String>,
    /// The ARN if anyone wrote it, else the name.
    pub(super) written: String,
    /// Its name, with Region and account as far as it takes to tell it from others.
    pub(super) label: String,
    /// The namespaces that it feeds.
    pub(super) namespaces: Vec<NamespaceRule>,
}

/// The clusters to watch, `region` being the one that is meant where none is said. One that is written by name and by ARN
/// is one.
pub(super) fn clusters(config: &Config, region: &str) -> Vec<Cluster> {
    let mut clusters: Vec<Cluster> = Vec::new();
    for (namespace, settings) in &config.namespaces {
        let discover = match settings.discover {
            Discover::Labelled => ecs::Discover::Labelled,
            Discover::All => ecs::Discover::All,
        };
        let role = settings.assume_role.as_ref();
        let account = role.and_then(|role| account_of_role(role));
        for written in &settings.clusters {
            let Some(mut id) = ClusterId::read(written) else { continue }; // such a configuration is refused
            id.region.get_or_insert_with(|| region.to_owned());
            id.account = id.account.or(account.map(str::to_owned));
            let rule = NamespaceRule { namespace: namespace.clone(), discover };
            let mut known = clusters.iter_mut();
            let Some(known) = known.find(|one| one.role.as_ref() == role && one.id.may_be(&id)) else {
                let (role, written, label) = (role.cloned(), written.clone(), String::new());
                clusters.push(Cluster { id, role, written, label, namespaces: vec![rule] });
                continue;
            };
            known.id.account = known.id.account.take().or(id.account);
            if written.starts_with("arn:") {
                known.written.clone_from(written);
            }
            known.namespaces.push(rule);
        }
    }
    clusters.sort_by(|a, b| a.id.cmp(&b.id));
    let ids: Vec<_> = clusters.iter().map(|cluster| cluster.id.clone()).collect();
    for cluster in &mut clusters {
        cluster.label = label(&cluster.id, &ids);
    }
    clusters
}

fn label(id: &ClusterId, all: &[ClusterId]) -> String {
    let others = || all.iter().filter(|other| *other != id && other.name == id.name);
    let region = id.region.as_deref().unwrap_or_default();
    match &id.account {
        _ if others().next().is_none() => id.name.clone(),
        Some(account) if others().any(|other| other.region == id.region) => {
            format!("{account}/{region}/{}", id.name)
        }
        _ => format!("{region}/{}", id.name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:ecs:eu-west-1:123456789012:cluster/prod-a";
    const ELSEWHERE: &str = "arn:aws:ecs:us-east-1:123456789012:cluster/prod-a";
    const PARTNER: &str = "assumeRole: arn:aws:iam::210987654321:role/legation";

    /// The clusters of these namespaces as `label written <- namespaces`.
    fn told(namespaces: &[(&str, &str)]) -> Vec<String> {
        let body: String =
            namespaces.iter().map(|(name, settings)| format!("  {name}: {{ {settings} }}\n")).collect();
        let yaml = format!("aws: {{ region: eu-west-1 }}\nnamespaces:\n{body}");
        let config = Config::parse("legation.yaml".as_ref(), &yaml, []).unwrap();
        let line = |cluster: &Cluster| {
            let of: Vec<_> = cluster.namespaces.iter().map(|rule| rule.namespace.as_str()).collect();
            format!("{} {} <- {}", cluster.label, cluster.written, of.join(" "))
        };
        clusters(&config, "eu-west-1").iter().map(line).collect()
    }

    #[test]
    fn a_cluster_by_name_and_by_arn_is_one() {
        for (one, other) in [("prod-a", ARN), (ARN, "prod-a"), (ARN, ARN)] {
            let of = |cluster: &str| format!("clusters: [{cluster}]");
            let told = told(&[("prod", &of(one)), ("shared", &of(other))]);
            assert_eq!(told, [format!("prod-a {ARN} <- prod shared")]);
        }
    }

    #[test]
    fn those_of_one_name_are_told_apart_as_briefly_as_can_be() {
        let (here, both) = ("clusters: [prod-a, prod-b]", format!("clusters: [prod-a, '{ELSEWHERE}']"));
        assert_eq!(
            told(&[("prod", here), ("shared", &both)]),
            [
                "eu-west-1/prod-a prod-a <- prod shared".to_owned(),
                format!("us-east-1/prod-a {ELSEWHERE} <- shared"),
                "prod-b prod-b <- prod".to_owned(),
            ]
        );
        let partner = format!("clusters: [prod-a], {PARTNER}");
        assert_eq!(
            told(&[("prod", "clusters: [prod-a]"), ("partner", &partner)]),
            ["eu-west-1/prod-a prod-a <- prod", "210987654321/eu-west-1/prod-a prod-a <- partner"]
        );
    }
}
