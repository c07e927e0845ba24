//! What policies say of who sees what, and the mistakes that people make there.
//!
//! Invariant: each text has the one mistake of its name.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};

use super::super::Policy;
use super::head;
use crate::model::Namespace;

fn read(text: &str) -> Result<Policy, Vec<String>> {
    let namespaces: BTreeSet<Namespace> = ["prod", "shared"].map(Namespace::from).into();
    let problems =
        |problems: Vec<crate::diagnostic::Problem>| problems.iter().map(ToString::to_string).collect();
    Policy::parse(&[head(text)], &namespaces).map_err(problems)
}

fn check(text: &str, expected: Expect) {
    expected.assert_eq(&read(text).expect_err("a mistake").join("\n\n"));
}

#[test]
fn imports_exports_and_uses_say_who_sees_what() {
    let policy = read(
        "imports:\n  - { client: \"batch-*\", namespace: prod, from: [shared] }\n\
         namespaces:\n  shared: { exports: [audit, \"ledger-*\"] }\n\
         services:\n  checkout: { namespace: prod, uses: [payments, \"shared/audit\"] }\n",
    );
    let scoping = policy.expect("no mistake").scoping();
    let seen = |client| scoping.of(&"prod".into(), client).to_string();
    assert_eq!(seen("batch-1"), "prod + shared");
    assert_eq!(seen("checkout"), "prod (checkout, payments) + shared (audit)");
    assert_eq!(seen("web"), "prod");
    let exports = scoping.exports(&"shared".into()).expect("they are said");
    assert_eq!(&*exports.origin, "policy.yaml:6");
    let is_open = ["audit", "ledger-2", "mail"].map(|name| exports.has(&name.into()));
    assert_eq!(is_open, [true, true, false]);
}

#[test]
fn without_a_server_the_namespaces_are_those_that_are_named() {
    let text = "imports: [{ client: '*', namespace: prod, from: [shared] }]\n";
    let policy = Policy::parse(&[head(text)], &BTreeSet::new()).expect("no mistake");
    assert_eq!(policy.scoping().of(&"prod".into(), "").to_string(), "prod + shared");
}

#[test]
fn an_import_of_an_unknown_namespace() {
    check(
        "imports: [{ client: web, namespace: prod, from: [shraed] }]\n",
        expect![[r#"
        error[CFG002]: the namespace `shraed` is not configured
         --> policy.yaml:3:50
          |
        3 | imports: [{ client: web, namespace: prod, from: [shraed] }]
          |                                                  ^^^^^^ did you mean `shared`?"#]],
    );
}

#[test]
fn an_import_for_an_unknown_namespace() {
    check(
        "imports: [{ client: web, namespace: prdo, from: [shared] }]\n",
        expect![[r#"
        error[CFG002]: the namespace `prdo` is not configured
         --> policy.yaml:3:37
          |
        3 | imports: [{ client: web, namespace: prdo, from: [shared] }]
          |                                     ^^^^ did you mean `prod`?"#]],
    );
}

#[test]
fn an_import_that_does_not_say_whose() {
    check(
        "imports: [{ client: web, from: [shared] }]\n",
        expect![[r#"
        error[CFG002]: `web` may be in any of prod, shared
         --> policy.yaml:3:21
          |
        3 | imports: [{ client: web, from: [shared] }]
          |                     ^^^ say which with `namespace`"#]],
    );
}

#[test]
fn an_import_of_its_own_namespace() {
    check(
        "imports: [{ client: web, namespace: prod, from: [prod] }]\n",
        expect![[r#"
        error[CFG002]: clients of `prod` see it anyway
         --> policy.yaml:3:50
          |
        3 | imports: [{ client: web, namespace: prod, from: [prod] }]
          |                                                  ^^^^ name other namespaces"#]],
    );
}

#[test]
fn an_import_without_a_client() {
    check(
        "imports: [{ namespace: prod, from: [shared] }]\n",
        expect![[r#"
        error[CFG002]: the key `client` is missing
         --> policy.yaml:3:11
          |
        3 | imports: [{ namespace: prod, from: [shared] }]
          |           ^"#]],
    );
}

#[test]
fn a_client_that_can_be_no_name() {
    check(
        "imports: [{ client: \"batch ?\", namespace: prod, from: [shared] }]\n",
        expect![[r#"
        error[CFG002]: `batch ?` is not a name, in which `*` stands for any text
         --> policy.yaml:3:21
          |
        3 | imports: [{ client: "batch ?", namespace: prod, from: [shared] }]
          |                     ^^^^^^^^^ write it like `batch-*`"#]],
    );
}

#[test]
fn a_use_of_no_service() {
    check(
        "services: { web: { namespace: prod, uses: [audit.shared] } }\n",
        expect![[r#"
        error[CFG002]: `audit.shared` is not a service, alone or behind its namespace
         --> policy.yaml:3:44
          |
        3 | services: { web: { namespace: prod, uses: [audit.shared] } }
          |                                            ^^^^^^^^^^^^ write it like `shared/audit`"#]],
    );
}

#[test]
fn a_use_of_an_unknown_namespace() {
    check(
        "services: { web: { namespace: prod, uses: [shraed/audit] } }\n",
        expect![[r#"
        error[CFG002]: the namespace `shraed` of `shraed/audit` is not configured
         --> policy.yaml:3:44
          |
        3 | services: { web: { namespace: prod, uses: [shraed/audit] } }
          |                                            ^^^^^^^^^^^^ did you mean `shared`?"#]],
    );
}

#[test]
fn a_use_of_what_is_not_exported() {
    check(
        "namespaces: { shared: { exports: [audit-log] } }\n\
         services: { web: { namespace: prod, uses: [shared/audit] } }\n",
        expect![[r#"
            error[CFG002]: `shared` does not export `audit`, which `web` uses
             --> policy.yaml:4:44
              |
            4 | services: { web: { namespace: prod, uses: [shared/audit] } }
              |                                            ^^^^^^^^^^^^ did you mean `audit-log`? or add `audit` to `exports` of `shared`, at policy.yaml:3"#]],
    );
}

#[test]
fn an_import_for_who_says_what_it_uses() {
    check(
        "services: { web: { namespace: prod, uses: [payments] } }\n\
         imports: [{ client: web, namespace: prod, from: [shared] }]\n",
        expect![[r#"
            error[CFG002]: `web` says what it uses, and sees nothing else
             --> policy.yaml:4:21
              |
            4 | imports: [{ client: web, namespace: prod, from: [shared] }]
              |                     ^^^ add services, like `shared/audit`, to its `uses` at policy.yaml:3"#]],
    );
}

#[test]
fn an_export_that_can_be_no_name() {
    check(
        "namespaces: { shared: { exports: [\"a/b\"] } }\n",
        expect![[r#"
        error[CFG002]: `a/b` is not a name, in which `*` stands for any text
         --> policy.yaml:3:35
          |
        3 | namespaces: { shared: { exports: ["a/b"] } }
          |                                   ^^^^^ write it like `batch-*`"#]],
    );
}
