//! Words and figures as people write them: the nearest known word, and durations.
//!
//! It knows no file and no key.
//!
//! Invariant: pure, and total over every text.

use std::time::Duration;

/// The word among `known` that was probably meant by `word`.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = plain(word);
    known
        .into_iter()
        .map(|candidate| (strsim::osa_distance(&plain, &self::plain(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters and digits in lower case, so that `app_protocol` is near `appProtocol`.
fn plain(word: &str) -> String {
    word.chars().take(128).filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// `did you mean `prod`?`, when a word is near, else `expected one of …`, when there are any.
pub fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(near) = nearest(word, known.clone()) {
        return Some(format!("did you mean `{near}`?"));
    }
    let all = known.into_iter().collect::<Vec<_>>();
    (!all.is_empty()).then(|| format!("expected one of {}", all.join(", ")))
}

/// What to write instead: the nearest word, and all of them.
pub fn choice(word: &str, expected: &[&str]) -> String {
    let all = match expected {
        [] => "nothing is expected here".to_owned(),
        [only] => format!("expected `{only}`"),
        several => format!("expected one of {}", several.join(", ")),
    };
    match nearest(word, expected.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? {all}"),
        None => all,
    }
}

/// At most 64 characters of what was written.
pub fn short(text: &str) -> String {
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(64).collect();
    if characters.next().is_some() { format!("{start}…") } else { start }
}

/// A duration as GEP-2257 has it: one to four of `h`, `m`, `s`, `ms` with at most five digits each.
pub fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    for _ in 0..4 {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).filter(|digits| (1..=5).contains(digits))?;
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_and_more = &rest[digits..];
        let (unit, milliseconds) = [("ms", 1), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)]
            .into_iter()
            .find(|(unit, _)| unit_and_more.starts_with(unit))?;
        sum += Duration::from_millis(number * milliseconds);
        rest = &unit_and_more[unit.len()..];
        if rest.is_empty() {
            return Some(sum);
        }
    }
    None
}

/// The duration as a person would write it: `1h30m`, `500ms`, `0s`.
pub fn spell(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    let parts = [
        (milliseconds / 3_600_000, "h"),
        (milliseconds / 60_000 % 60, "m"),
        (milliseconds / 1_000 % 60, "s"),
        (milliseconds % 1_000, "ms"),
    ];
    let text: String = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, unit)| format!("{number}{unit}"))
        .collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_nearest_word_is_near() {
        let known = ["interval", "maxBackoff", "appProtocol", "tcp", "http"];
        assert_eq!(nearest("intervall", known), Some("interval"));
        assert_eq!(nearest("app_protocol", known), Some("appProtocol"));
        assert_eq!(nearest("htpp", known), Some("http"));
        assert_eq!(nearest("TCP", known), Some("tcp"));
        assert_eq!(nearest("udp", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(did_you_mean("udp", ["tcp"]).as_deref(), Some("expected one of tcp"));
        assert_eq!(did_you_mean("udp", []), None);
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("15s"), Some(Duration::from_secs(15)));
        assert_eq!(duration("1h30m"), Some(Duration::from_secs(5400)));
        assert_eq!(duration("500ms"), Some(Duration::from_millis(500)));
        assert_eq!(duration("1m500ms"), Some(Duration::from_millis(60_500)));
        assert_eq!(duration("0s"), Some(Duration::ZERO));
        for wrong in ["", "15", "s", "1.5s", "-1s", "1 s", "100000s", "1s1s1s1s1s", "1d", "1sm", "５s"] {
            assert_eq!(duration(wrong), None, "{wrong:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "\\PC{0,12}") {
            let _ = duration(&text);
            let _ = nearest(&text, ["interval"]);
        }

        #[test]
        fn what_is_spelled_is_read_back(milliseconds in 0_u64..359_999_000) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(super::duration(&spell(duration)), Some(duration));
        }
    }
}
