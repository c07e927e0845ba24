//! What a fault makes of a clean answer: emptied, with failures in it, in another order page by page.
//!
//! It knows no world and no connection. Invariant: what comes out is an answer of the same shape, which AWS could have
//! given.

use fastrand::Rng;
use serde_json::{Map, Value, json};

use super::faults::Fault;
use super::wire::{Api, ApiError, Operation};

type Answer = Result<Value, ApiError>;

/// More entries than any world lists: a guard against tokens that lead nowhere.
const MOST_PAGES: usize = 10_000;
/// How the tokens of pages begin that are not the endpoint's usual ones.
const TOKEN: &str = "shuffled-";

/// The members that page a list: of the token and of the size.
fn paging(api: Api) -> (&'static str, &'static str) {
    match api {
        Api::Ecs => ("nextToken", "maxResults"),
        _ => ("NextToken", "MaxResults"),
    }
}

fn is_list(operation: Operation) -> bool {
    operation.name().starts_with("List")
}

/// The request, asking for no more entries at a time than there may be on a page.
pub(super) fn limited(operation: Operation, mut input: Value, most: usize) -> Value {
    let (_, size) = paging(operation.api());
    if is_list(operation)
        && let Some(members) = input.as_object_mut()
        && members.get(size).is_none_or(|asked| asked.as_u64().is_some_and(|asked| asked > most as u64))
    {
        members.insert(size.to_owned(), json!(most));
    }
    input
}

/// The answer that `look_up` gives to a request, as the fault has it.
pub(super) fn twisted(
    fault: Option<Fault>,
    operation: Operation,
    input: &Value,
    seed: u64,
    look_up: impl Fn(&Value) -> Answer,
) -> Answer {
    match fault {
        Some(Fault::Empty) => look_up(input).map(emptied),
        Some(Fault::Failures(reason)) => look_up(input).map(|answer| failing(answer, reason, seed)),
        Some(Fault::Shuffled) if is_list(operation) => shuffled(operation, input, seed, false, look_up),
        Some(Fault::Moving) if is_list(operation) => shuffled(operation, input, seed, true, look_up),
        _ => look_up(input),
    }
}

/// The answer with its top-level lists emptied and no further page.
fn emptied(mut answer: Value) -> Value {
    if let Some(members) = answer.as_object_mut() {
        members.retain(|key, _| !key.eq_ignore_ascii_case("nextToken"));
        for member in members.values_mut().filter(|member| member.is_array()) {
            *member = Value::Array(Vec::new());
        }
    }
    answer
}

/// A description in which about half of what is described, one at the least, is a failure with this reason instead.
fn failing(mut answer: Value, reason: &str, seed: u64) -> Value {
    let mut dice = Rng::with_seed(seed);
    let Some(members) = answer.as_object_mut().filter(|members| members.contains_key("failures")) else {
        return answer;
    };
    let mut failures = Vec::new();
    for (key, member) in members.iter_mut().filter(|(key, _)| *key != "failures") {
        let Some(described) = member.as_array_mut() else { continue };
        let arn = format!("{}Arn", key.trim_end_matches('s'));
        let chosen = dice.usize(..described.len().max(1));
        let mut number = 0;
        described.retain(|one| {
            let fails = number == chosen || dice.bool();
            number += 1;
            if fails {
                failures.push(json!({ "arn": one[&arn], "reason": reason, "detail": "said by a fault" }));
            }
            !fails
        });
    }
    if let Some(Value::Array(own)) = members.get_mut("failures") {
        own.extend(failures);
    }
    answer
}

/// A page of a list in an order of its own. With `moving`, each page is cut from another order than the one before, as if
/// entries moved between pages while these are read: some come twice, and others not at all.
fn shuffled(
    operation: Operation,
    input: &Value,
    seed: u64,
    moving: bool,
    look_up: impl Fn(&Value) -> Answer,
) -> Answer {
    let (token, size) = paging(operation.api());
    let given = input[token].as_str();
    let (seed, page) = match given.map(|text| text.strip_prefix(TOKEN).and_then(|rest| rest.split_once('-')))
    {
        None => (seed, 0),
        Some(Some((seed, page))) => match (seed.parse(), page.parse()) {
            (Ok(seed), Ok(page)) => (seed, page),
            _ => return look_up(input), // which refuses it
        },
        Some(None) => return look_up(input),
    };
    let List { key, mut entries, rest: mut answer } = everything(input, token, size, &look_up)?;
    let mut dice = Rng::with_seed(if moving { seed.wrapping_add(page) } else { seed });
    dice.shuffle(&mut entries);
    let count = usize::try_from(input[size].as_u64().unwrap_or(100)).unwrap_or(100).max(1);
    let from = usize::try_from(page).unwrap_or(usize::MAX).saturating_mul(count);
    if entries.len() > from.saturating_add(count) {
        answer.insert(token.to_owned(), json!(format!("{TOKEN}{seed}-{}", page + 1)));
    }
    answer.insert(key, entries.into_iter().skip(from).take(count).collect());
    Ok(Value::Object(answer))
}

/// A whole list.
struct List {
    /// The member of an answer that holds entries.
    key: String,
    entries: Vec<Value>,
    /// The other members.
    rest: Map<String, Value>,
}

/// All pages of a list in one.
fn everything(
    input: &Value,
    token: &str,
    size: &str,
    look_up: impl Fn(&Value) -> Answer,
) -> Result<List, ApiError> {
    let mut input = input.clone();
    if let Some(members) = input.as_object_mut() {
        members.remove(token);
        members.insert(size.to_owned(), json!(100));
    }
    let mut entries = Vec::new();
    for _ in 0..MOST_PAGES {
        let Value::Object(mut answer) = look_up(&input)? else { break };
        let Some(key) = answer.iter().find(|(_, member)| member.is_array()).map(|(key, _)| key.clone())
        else {
            break;
        };
        if let Some(Value::Array(page)) = answer.remove(&key) {
            entries.extend(page);
        }
        match answer.remove(token) {
            Some(next) => input[token] = next,
            None => return Ok(List { key, entries, rest: answer }),
        }
    }
    Err(ApiError::new("SerializationException", "an answer that is no list"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LIST: Operation = Operation::ListTasks;

    /// A list of the numbers below ten, three to a page at the most.
    fn numbers(input: &Value) -> Answer {
        let from: usize = input["nextToken"].as_str().map_or(0, |text| text.parse().unwrap_or(99));
        if from > 10 {
            return Err(ApiError::parameter("Invalid token."));
        }
        let page: Vec<_> = (from..10).take(3).collect();
        let next = (from + 3 < 10).then(|| (from + 3).to_string());
        let mut answer = json!({ "taskArns": page });
        if let Some(next) = next {
            answer["nextToken"] = json!(next);
        }
        Ok(answer)
    }

    fn read(fault: Fault, seed: u64) -> Vec<u64> {
        let (mut input, mut read) = (json!({ "maxResults": 4 }), Vec::new());
        loop {
            let page = twisted(Some(fault), LIST, &input, seed, numbers).unwrap();
            read.extend(page["taskArns"].as_array().unwrap().iter().map(|it| it.as_u64().unwrap()));
            match page.get("nextToken") {
                Some(token) => input["nextToken"] = token.clone(),
                None => return read,
            }
        }
    }

    #[test]
    fn a_shuffled_list_is_complete_and_a_moving_one_is_not() {
        let orders: BTreeSet<_> = (0..20).map(|seed| read(Fault::Shuffled, seed)).collect();
        assert!(orders.len() > 15, "another order each time");
        for order in orders {
            assert_eq!(order.iter().copied().collect::<BTreeSet<_>>().len(), 10);
            assert_eq!(order.len(), 10);
        }
        let moving: Vec<_> = (0..20).map(|seed| read(Fault::Moving, seed)).collect();
        let different = |read: &Vec<u64>| read.iter().collect::<BTreeSet<_>>().len();
        assert!(moving.iter().all(|read| read.len() == 10));
        assert!(moving.iter().any(|read| different(read) < 9), "some come twice, and others not at all");
        for token in ["shuffled-", "shuffled-1-x", "99"] {
            let input = json!({ "nextToken": token });
            assert!(twisted(Some(Fault::Shuffled), LIST, &input, 1, numbers).is_err(), "{token}");
        }
    }

    #[test]
    fn failures_stand_for_what_is_there() {
        let clean = |_: &Value| {
            let tasks: Vec<_> = (0..10).map(|id| json!({ "taskArn": id })).collect();
            Ok(json!({ "tasks": tasks, "failures": [{ "arn": "z", "reason": "MISSING" }] }))
        };
        let fault = Some(Fault::Failures("MISSING"));
        let answer = twisted(fault, Operation::DescribeTasks, &json!({}), 5, clean).unwrap();
        let (tasks, failures) = (answer["tasks"].as_array().unwrap(), answer["failures"].as_array().unwrap());
        assert_eq!(tasks.len() + failures.len(), 11);
        assert!(failures.len() > 1 && failures.iter().all(|failure| !failure["arn"].is_null()));
        let lone = |_: &Value| Ok(json!({ "tasks": [{ "taskArn": 1 }], "failures": [] }));
        for seed in 0..10 {
            let answer = twisted(fault, Operation::DescribeTasks, &json!({}), seed, lone).unwrap();
            assert_eq!(answer["tasks"], json!([]), "one at the least");
        }
        assert_eq!(twisted(fault, LIST, &json!({}), 5, numbers).unwrap(), numbers(&json!({})).unwrap());
    }

    #[test]
    fn pages_get_no_longer_than_they_may() {
        let limit = |operation, input: Value| limited(operation, input, 2)["maxResults"].clone();
        assert_eq!(limit(LIST, json!({ "maxResults": 100 })), 2);
        assert_eq!(limit(LIST, json!({})), 2);
        assert_eq!(limit(LIST, json!({ "maxResults": 1 })), 1);
        assert_eq!(limit(LIST, json!({ "maxResults": "x" })), "x");
        assert_eq!(limit(Operation::DescribeTasks, json!({})), Value::Null);
        assert_eq!(limited(Operation::ListMapServices, json!({}), 2), json!({ "MaxResults": 2 }));
    }
}
