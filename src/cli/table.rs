//! Tables as `kubectl` prints them: columns, and nothing drawn around them.

use std::time::Duration;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

/// `rows` under `header`, each line with a newline and without trailing blanks.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.into_iter().map(|cell| clean(&cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.trim_fmt() + "\n"
}

/// Text from elsewhere without control characters, which a terminal would obey; a gap as a dash.
pub(super) fn clean(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if clean.trim().is_empty() { "-".to_owned() } else { clean }
}

/// A JSON value as a person would write it.
pub(super) fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Milliseconds as an age: `350ms`, `12s`, `5m`, `3h`, `9d`.
pub(super) fn age(milliseconds: &Value) -> String {
    let Some(milliseconds) = milliseconds.as_f64().filter(|it| it.is_finite()) else { return String::new() };
    let age = Duration::try_from_secs_f64(milliseconds.max(0.0) / 1000.0).unwrap_or(Duration::MAX);
    match age.as_secs() {
        0 => format!("{}ms", age.as_millis()),
        seconds @ 1..120 => format!("{seconds}s"),
        seconds @ 120..7_200 => format!("{}m", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// The items of a list.
pub(super) fn items(list: &Value) -> &[Value] {
    list["items"].as_array().map_or(&[], Vec::as_slice)
}

/// The first line of what may be a page.
pub(super) fn first_line(text: &str) -> String {
    match text.trim().split_once('\n') {
        Some((first, _)) => format!("{first} …"),
        None => text.trim().to_owned(),
    }
}
