//! Sidecars and withdrawals.

use super::*;
use crate::changes::Listener;
use expect_test::expect;

fn sent(generation: u64, milliseconds: u64) -> Progress {
    Progress { sent: Some((generation, at(milliseconds))), responses: 1, ..Progress::default() }
}

/// A stream of a client that sees all of prod.
fn ear(stream: u64) -> Listener<'static> {
    static WHOLE: std::sync::LazyLock<Scope> = std::sync::LazyLock::new(|| Scope::whole("prod".into()));
    Listener { stream, scope: &WHOLE }
}

#[tokio::test]
async fn each_has_one_of_three_states() {
    let mut world = world();
    world.publish();
    world.connect("a-synced", 1, Progress { acked: Some((1, at(700))), ..sent(1, 600) });
    world.connect("b-silent", 0, sent(1, 600));
    world.connect("c-unsent", 0, Progress::default());
    let nack = Nack { generation: 1, message: "bad cluster".to_owned(), at: at(800) };
    let mut refusing = world.session();
    let response = refusing.next_response(std::time::Instant::now()).unwrap();
    let refusal = session::Request {
        type_url: ResourceType::Endpoint.type_url().to_owned(),
        names: Names::Increment(Vec::new(), Vec::new()),
        nonce: response.nonce.to_string(),
        error: Some("bad endpoint".to_owned()),
        ..Default::default()
    };
    refusing.on_request(refusal).unwrap();
    // What others of its type it accepted since does not mend what it refused.
    let progress = Progress { nack: Some(Box::new(nack)), acked: Some((1, at(900))), ..sent(1, 600) };
    world.connect_session("d-refusing", 0, progress, refusing);
    let (_, body) = world.admin("/api/v1/proxies").await;
    let states: Vec<_> = body["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| format!("{} {} since {}", it["id"], it["state"], it["since"]))
        .collect();
    expect![[r#"
        [
            "\"a-synced\" \"SYNCED\" since \"2026-01-01T00:00:00.700000Z\"",
            "\"b-silent\" \"STALE\" since \"2026-01-01T00:00:00.600000Z\"",
            "\"c-unsent\" \"STALE\" since \"2026-01-01T00:00:00.100000Z\"",
            "\"d-refusing\" \"NACKED\" since \"2026-01-01T00:00:00.800000Z\"",
        ]
    "#]]
    .assert_debug_eq(&states);
    let eds = &body["items"][3]["types"][0];
    assert_eq!((&eds["short"], &eds["nacked"]["message"]), (&"EDS".into(), &"bad cluster".into()));
    assert_eq!(eds["rejected"][0]["name"], "prod/payments");
    assert_eq!(eds["rejected"][0]["version"], response.resources[0].version.to_string());
    assert_eq!(eds["rejected"][0]["reason"], "bad endpoint");
    let (_, body) = world.admin("/api/v1/findings").await;
    assert!(body.to_string().contains("EDS refused: bad cluster"), "{body}");
}

#[tokio::test]
async fn a_withdrawal_names_whom_it_waits_for() {
    let mut world = world();
    world.publish();
    world.connect("quick", 1, Progress::default());
    world.connect("slow", 0, Progress::default());
    world.withdraw();
    world.connect("late", 0, Progress::default());
    let ledger = &world.state.ledger;
    assert_eq!(ledger.sent("prod/payments", 0, 1, ear(0), at(1_002)).len(), 1);
    assert_eq!(ledger.sent("prod/payments", 0, 1, ear(1), at(1_004)).len(), 1);
    assert_eq!(ledger.acked("prod/payments", 1, ear(0), &"quick".into(), at(1_007)).len(), 1);
    let (_, mut body) = world.admin("/api/v1/changes").await;
    let item = &mut body["items"][0];
    assert!(item["ageMs"].as_f64().unwrap() > 0.0);
    item["ageMs"] = Value::Null;
    expect![[r#"
        {
          "id": 1,
          "namespace": "prod",
          "service": "payments",
          "instance": "payments-9",
          "address": "10.0.0.9",
          "port": 8080,
          "reason": "stopping",
          "assignment": "prod/payments",
          "generation": 1,
          "seenAt": "2026-01-01T00:00:01.000000Z",
          "publishedAt": "2026-01-01T00:00:01.001000Z",
          "firstSentAt": "2026-01-01T00:00:01.002000Z",
          "lastSentAt": "2026-01-01T00:00:01.004000Z",
          "firstAckAt": "2026-01-01T00:00:01.007000Z",
          "lastAckAt": "2026-01-01T00:00:01.007000Z",
          "sinceSeenMs": {
            "published": 1.0,
            "firstSent": 2.0,
            "lastSent": 4.0,
            "firstAck": 7.0,
            "lastAck": 7.0
          },
          "ageMs": null,
          "sent": 2,
          "acked": 1,
          "waiting": 1,
          "waitingFor": [
            "slow"
          ],
          "slowest": [
            {
              "id": "quick",
              "afterMs": 7.0
            }
          ]
        }"#]]
    .assert_eq(&format!("{item:#}"));
    let (status, one) = world.admin("/api/v1/changes/1").await;
    assert_eq!((status, &one["kind"], &one["item"]["id"]), (StatusCode::OK, &"Change".into(), &1.into()));
}
