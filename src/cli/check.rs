//! `legation check --pre`: whether a server with this configuration could do its work here.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::serve::configuration;
use super::table::table;
use super::validate::{examine, report};
use super::{Check, Exit, Format, Outcome, Stop, Terminal, environment};
use crate::app;
use crate::config::Config;
use crate::source::aws::probe::{Permission, Probe};
use crate::source::file;

/// The policies that are shipped: whoever lacks an action is shown its statement.
const POLICIES: [&str; 7] = [
    include_str!("../../deploy/iam/ecs.json"),
    include_str!("../../deploy/iam/ec2.json"),
    include_str!("../../deploy/iam/deployments.json"),
    include_str!("../../deploy/iam/cloud-map.json"),
    include_str!("../../deploy/iam/events.json"),
    include_str!("../../deploy/iam/default-namespace.json"),
    include_str!("../../deploy/iam/assume-role.json"),
];

pub(super) fn run(check: &Check, terminal: &mut Terminal<'_>) -> Outcome {
    let (name, text) = configuration(check.config.as_deref(), environment(), terminal.err)?;
    let config = Config::parse(&name, &text, environment());
    let problems = match &config {
        Ok(config) => examine(config, file::examine_together),
        Err(problems) => problems.clone(),
    };
    let config = match config {
        Ok(config) if problems.is_empty() => config,
        _ => return report(&problems, check.output, terminal),
    };
    let failed = |error: &dyn std::fmt::Display| Stop::new(Exit::Failed, error, None);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(&format!("can't start: {error}")))?;
    let probes = runtime.block_on(app::probe(&config)).map_err(|error| failed(&format!("{error:#}")))?;
    show(&probes, check.output, terminal)
}

fn show(probes: &[Probe], format: Format, terminal: &mut Terminal<'_>) -> Outcome {
    let missing = missing(probes);
    let bad = probes.iter().filter(|probe| probe.permission != Permission::Allowed).count();
    match format {
        Format::Json => writeln!(terminal.out, "{:#}", as_json(probes, &missing))?,
        Format::Table => {
            let row = |probe: &Probe| {
                let (state, why) = words(&probe.permission);
                let role = probe.role.as_deref().unwrap_or_default();
                [probe.action, &probe.object, role, state, why].map(str::to_owned).to_vec()
            };
            let heads = ["ACTION", "OBJECT", "ROLE", "STATE", "WHY"];
            write!(terminal.out, "{}", table(&heads, probes.iter().map(row)))?;
            for (role, statements) in missing {
                let role = role.unwrap_or("the role that calls");
                writeln!(terminal.out, "\nadd to the policy of {role}:\n{:#}", Value::Array(statements))?;
            }
            terminal.out.flush()?;
            let of = probes.len();
            writeln!(terminal.err, "{} of {of} actions allowed", of - bad)?;
        }
    }
    Ok(if bad == 0 { Exit::Done } else { Exit::Findings })
}

fn words(permission: &Permission) -> (&'static str, &str) {
    match permission {
        Permission::Allowed => ("allowed", ""),
        Permission::Denied(why) => ("denied", why),
        Permission::Unknown(why) => ("unknown", why),
    }
}

/// What each role lacks, of which the first is this process itself.
fn missing(probes: &[Probe]) -> BTreeMap<Option<&str>, Vec<Value>> {
    let mut denied: BTreeMap<Option<&str>, Vec<&str>> = BTreeMap::new();
    for probe in probes.iter().filter(|probe| matches!(probe.permission, Permission::Denied(_))) {
        denied.entry(probe.role.as_deref()).or_default().push(probe.action);
    }
    denied.into_iter().map(|(role, denied)| (role, statements(&denied))).collect()
}

/// The statements of the shipped policies with an action that is denied, cut to such actions.
fn statements(denied: &[&str]) -> Vec<Value> {
    let policies = POLICIES.iter().filter_map(|policy| serde_json::from_str::<Value>(policy).ok());
    let all = policies.flat_map(|policy| policy["Statement"].as_array().cloned().unwrap_or_default());
    let cut = all.filter_map(|mut statement| {
        let actions = statement["Action"].as_array()?;
        let lacking: Vec<_> =
            actions.iter().filter(|action| denied.iter().any(|it| *action == *it)).cloned().collect();
        statement["Action"] = Value::Array(lacking.clone());
        (!lacking.is_empty()).then_some(statement)
    });
    cut.collect()
}

fn as_json(probes: &[Probe], missing: &BTreeMap<Option<&str>, Vec<Value>>) -> Value {
    let items = probes.iter().map(|probe| {
        let (state, why) = words(&probe.permission);
        let Probe { action, object, role, .. } = probe;
        json!({ "action": action, "object": object, "role": role, "state": state, "why": why })
    });
    let missing = missing.iter().map(|(role, statements)| json!({ "role": role, "statements": statements }));
    json!({
        "apiVersion": "legation/v1",
        "kind": "ProbeList",
        "items": items.collect::<Vec<_>>(),
        "missing": missing.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_lacks_an_action_is_shown_its_statement() {
        let probe =
            |action, permission| Probe { action, object: "prod-a".to_owned(), role: None, permission };
        let probes = [
            probe("ecs:ListTasks", Permission::Denied("not you".to_owned())),
            probe("ecs:ListServices", Permission::Allowed),
            probe("ecs:DescribeTasks", Permission::Unknown("timeout: 3 s".to_owned())),
            Probe {
                role: Some("arn:aws:iam::2:role/reader".to_owned()),
                ..probe("ecs:ListServices", Permission::Denied("nor you".to_owned()))
            },
        ];
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut terminal = Terminal { out: &mut out, err: &mut err, colour: false };
        let exit = show(&probes, Format::Table, &mut terminal).unwrap();
        assert_eq!(exit, Exit::Findings);
        let (out, err) = (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap());
        assert_eq!(err, "1 of 4 actions allowed\n");
        expect_test::expect![[r#"
            ACTION              OBJECT   ROLE                         STATE     WHY
            ecs:ListTasks       prod-a   -                            denied    not you
            ecs:ListServices    prod-a   -                            allowed   -
            ecs:DescribeTasks   prod-a   -                            unknown   timeout: 3 s
            ecs:ListServices    prod-a   arn:aws:iam::2:role/reader   denied    nor you

            add to the policy of the role that calls:
            [
              {
                "Sid": "LegationList",
                "Effect": "Allow",
                "Action": [
                  "ecs:ListTasks"
                ],
                "Resource": "*",
                "Condition": {
                  "ArnEquals": {
                    "ecs:cluster": "arn:aws:ecs:REGION:ACCOUNT:cluster/CLUSTER"
                  }
                }
              }
            ]

            add to the policy of arn:aws:iam::2:role/reader:
            [
              {
                "Sid": "LegationList",
                "Effect": "Allow",
                "Action": [
                  "ecs:ListServices"
                ],
                "Resource": "*",
                "Condition": {
                  "ArnEquals": {
                    "ecs:cluster": "arn:aws:ecs:REGION:ACCOUNT:cluster/CLUSTER"
                  }
                }
              }
            ]
        "#]]
        .assert_eq(&out);
    }

    #[test]
    fn each_action_of_the_policies_is_found_in_one_statement_and_alone() {
        let policies = POLICIES.map(|policy| serde_json::from_str::<Value>(policy).unwrap());
        let all = policies.iter().flat_map(|policy| policy["Statement"].as_array().unwrap());
        let actions: Vec<_> = all.flat_map(|statement| statement["Action"].as_array().unwrap()).collect();
        assert!(actions.len() > 10, "{actions:?}");
        for action in actions {
            let action = action.as_str().unwrap();
            let found = statements(&[action]);
            assert_eq!(found.len(), 1, "{action}");
            assert_eq!(found[0]["Action"], json!([action]));
            assert_eq!(found[0]["Effect"], "Allow");
        }
    }
}
