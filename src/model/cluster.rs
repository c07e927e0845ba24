//! Which ECS cluster is meant, as its name or an ARN tells it; and what other ARNs tell of where something is.
//!
//! It asks nobody. Invariant: what is not said is not guessed.

/// A cluster.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ClusterId {
    /// Its name.
    pub name: String,
    /// Its Region; `None` where only whoever calls AWS knows.
    pub region: Option<String>,
    /// Its account; `None` where only AWS knows.
    pub account: Option<String>,
}

/// Region, account and resource of an ARN of this service.
fn arn_of<'a>(service: &str, arn: &'a str) -> Option<(&'a str, &'a str, &'a str)> {
    let mut parts = arn.strip_prefix("arn:")?.splitn(5, ':');
    let (_partition, of) = (parts.next()?, parts.next()?);
    let (region, account, resource) = (parts.next()?, parts.next()?, parts.next()?);
    (of == service).then_some((region, account, resource))
}

/// The account of a role, if that is its ARN.
pub fn account_of_role(arn: &str) -> Option<&str> {
    let (region, account, resource) = arn_of("iam", arn)?;
    let name = resource.strip_prefix("role/")?;
    let is_account = account.len() == 12 && account.bytes().all(|byte| byte.is_ascii_digit());
    let sound = |c: char| c.is_ascii_alphanumeric() || "+=,.@-_/".contains(c);
    let is_role = !name.is_empty() && !name.ends_with('/') && name.chars().all(sound);
    (region.is_empty() && is_account && is_role).then_some(account)
}

/// The Region of a Cloud Map namespace, if that is its ARN.
pub fn region_of_namespace(arn: &str) -> Option<&str> {
    arn_of("servicediscovery", arn).map(|(region, ..)| region)
}

impl ClusterId {
    /// The cluster that is written as a name or an ARN, if it can be one.
    pub fn read(written: &str) -> Option<Self> {
        let (name, region, account) = if written.starts_with("arn:") {
            let (region, account, resource) = arn_of("ecs", written)?;
            let name = resource.strip_prefix("cluster/")?;
            (name, Some(region), Some(account))
        } else {
            (written, None, None)
        };
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let is_name = (1..=255).contains(&name.len()) && name.chars().all(sound);
        let is_there = |part: Option<&str>| part.is_none_or(|part| !part.is_empty());
        let is_sound = is_name && is_there(region) && is_there(account);
        is_sound.then(|| Self {
            name: name.to_owned(),
            region: region.map(str::to_owned),
            account: account.map(str::to_owned),
        })
    }

    /// Whether both may be the same one.
    pub fn may_be(&self, other: &Self) -> bool {
        self.name == other.name && self.is_in(other.region.as_deref(), other.account.as_deref())
    }

    /// Whether it may run a task, by the task's ARN. Those of the old form don't say in which cluster.
    pub fn may_run(&self, task: &str) -> bool {
        let Some((region, account, resource)) = arn_of("ecs", task) else { return false };
        let Some(id) = resource.strip_prefix("task/") else { return false };
        let cluster = id.split_once('/').map(|(cluster, _)| cluster);
        cluster.is_none_or(|cluster| cluster == self.name) && self.is_in(Some(region), Some(account))
    }

    fn is_in(&self, region: Option<&str>, account: Option<&str>) -> bool {
        let agree =
            |own: Option<&str>, other: Option<&str>| own.zip(other).is_none_or(|(own, other)| own == other);
        agree(self.region.as_deref(), region) && agree(self.account.as_deref(), account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:ecs:eu-west-1:123456789012:cluster/prod-a";

    #[test]
    fn a_cluster_is_written_as_a_name_or_an_arn() {
        let cluster = ClusterId::read(ARN).unwrap();
        assert_eq!(cluster.region.as_deref(), Some("eu-west-1"));
        assert_eq!(cluster.account.as_deref(), Some("123456789012"));
        let named = ClusterId::read("prod-a").unwrap();
        assert_eq!((named.name.as_str(), named.region.clone()), ("prod-a", None));
        assert!(named.may_be(&cluster) && cluster.may_be(&named));
        for elsewhere in [ARN.replace("eu-west-1", "us-east-1"), ARN.replace("123", "321")] {
            let elsewhere = ClusterId::read(&elsewhere).unwrap();
            assert!(!elsewhere.may_be(&cluster) && elsewhere.may_be(&named), "{elsewhere:?}");
        }
        for wrong in [
            "",
            "prod/a",
            "arn:aws:ecs::123456789012:cluster/prod-a",
            "arn:aws:ecs:eu-west-1::cluster/prod-a",
            "arn:aws:ecs:eu-west-1:123456789012:service/prod-a",
            "arn:aws:ec2:eu-west-1:123456789012:cluster/prod-a",
            "arn:aws:ecs:eu-west-1:123456789012:cluster/",
        ] {
            assert_eq!(ClusterId::read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_task_says_whose_it_is() {
        let cluster = ClusterId::read(ARN).unwrap();
        for (task, is_own) in [
            ("arn:aws:ecs:eu-west-1:123456789012:task/prod-a/0123", true),
            ("arn:aws:ecs:eu-west-1:123456789012:task/0123", true),
            ("arn:aws:ecs:eu-west-1:123456789012:task/prod-b/0123", false),
            ("arn:aws:ecs:us-east-1:123456789012:task/prod-a/0123", false),
            ("arn:aws:ecs:eu-west-1:210987654321:task/prod-a/0123", false),
            ("arn:aws:ecs:eu-west-1:123456789012:container/prod-a/0123", false),
            ("till-1", false),
        ] {
            assert_eq!(cluster.may_run(task), is_own, "{task}");
        }
    }

    #[test]
    fn a_namespace_is_in_a_region() {
        let arn = "arn:aws:servicediscovery:us-east-1:123456789012:namespace/ns-1";
        assert_eq!([arn, "prod.local", ARN].map(region_of_namespace), [Some("us-east-1"), None, None]);
    }

    #[test]
    fn a_role_is_of_an_account() {
        let role = "arn:aws:iam::123456789012:role/team/legation";
        assert_eq!(account_of_role(role), Some("123456789012"));
        for wrong in [
            "legation",
            "arn:aws:iam::1:role/legation",
            "arn:aws:iam::123456789012:user/legation",
            "arn:aws:iam::123456789012:role/",
            "arn:aws:iam:eu-west-1:123456789012:role/legation",
            "arn:aws:sts::123456789012:assumed-role/legation/session",
        ] {
            assert_eq!(account_of_role(wrong), None, "{wrong}");
        }
    }
}
