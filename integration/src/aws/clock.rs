//! The endpoint's clock, which may be minutes off ours.
//!
//! It shifts what AWS dates: answers, events, the header `Date`; and holds against it when requests say that they were
//! signed. The world keeps our time. Invariant: everything that the endpoint says of one moment is shifted alike.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use hyper::header::HeaderValue;
use jiff::fmt::rfc2822::DateTimePrinter;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::wire::ApiError;

/// By how much a signature may be off.
const TOLERANCE: SignedDuration = SignedDuration::from_mins(5);
const SIGNED_AT: &str = "%Y%m%dT%H%M%SZ";

/// A clock; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock(Arc<AtomicI64>);

impl Clock {
    /// Puts it so many seconds ahead of ours, or behind.
    pub(super) fn put_ahead(&self, seconds: i64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    fn ahead(&self) -> SignedDuration {
        SignedDuration::from_secs(self.0.load(Ordering::Relaxed))
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::now().saturating_add(self.ahead()).unwrap_or(Timestamp::MAX)
    }

    /// The header `Date` of an answer.
    pub(super) fn date(&self) -> Option<HeaderValue> {
        let text = DateTimePrinter::new().timestamp_to_rfc9110_string(&self.now()).ok()?;
        HeaderValue::from_str(&text).ok()
    }

    /// Shifts every time in an answer.
    pub(super) fn shift(&self, answer: &mut Value) {
        let ahead = self.ahead().as_secs_f64();
        if ahead != 0.0 {
            shift(answer, ahead);
        }
    }

    /// Refuses a request that was signed too long ago, or is yet to be.
    pub(super) fn check(&self, signed_at: &str) -> Result<(), ApiError> {
        let refused = |why: String| ApiError::new("InvalidSignatureException", why);
        let civil = jiff::civil::DateTime::strptime(SIGNED_AT, signed_at);
        let at = civil.and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC)).map(|at| at.timestamp());
        let at =
            at.map_err(|_| refused(format!("Date must be in ISO-8601 'basic format'. Got '{signed_at}'.")))?;
        let now = self.now();
        let age = now.duration_since(at);
        let shown = now.strftime(SIGNED_AT);
        match age {
            age if age > TOLERANCE => {
                Err(refused(format!("Signature expired: {signed_at} is too long before {shown}")))
            }
            age if age < -TOLERANCE => {
                Err(refused(format!("Signature not yet current: {signed_at} is still later than {shown}")))
            }
            _ => Ok(()),
        }
    }
}

/// Times are the numbers whose member says at what time something was.
fn shift(value: &mut Value, seconds: f64) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| shift(item, seconds)),
        Value::Object(members) => {
            for (key, member) in members {
                let is_time = key.ends_with("At") || key == "CreateDate";
                match member.as_f64().filter(|_| is_time) {
                    Some(at) => *member = json!(at + seconds),
                    None => shift(member, seconds),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shifted_and_nothing_else() {
        let clock = Clock::default();
        clock.put_ahead(-60);
        let mut answer =
            json!({"tasks": [{"createdAt": 100.5, "version": 3}], "CreateDate": 200, "at": "no"});
        clock.shift(&mut answer);
        let expected = json!({"tasks": [{"createdAt": 40.5, "version": 3}], "CreateDate": 140.0, "at": "no"});
        assert_eq!(answer, expected);
    }

    #[test]
    fn signatures_that_are_minutes_off_are_refused() {
        let clock = Clock::default();
        let signed = |ahead: i64| {
            let at = Timestamp::now() + SignedDuration::from_secs(ahead);
            clock.check(&at.strftime(SIGNED_AT).to_string()).map_err(|error| error.message)
        };
        assert_eq!((signed(0), signed(290), signed(-290)), (Ok(()), Ok(()), Ok(())));
        assert!(signed(310).unwrap_err().starts_with("Signature not yet current"));
        assert!(signed(-310).unwrap_err().starts_with("Signature expired"));
        clock.put_ahead(600);
        assert!(signed(0).is_err() && signed(600).is_ok());
        assert!(clock.check("today").is_err());
    }
}
