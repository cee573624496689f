//! Lists of CNI plugins as text: one entry goes in or out, and every other byte stays.

use std::ops::Range;

use serde_json::{Value, json};

use crate::node::cni::PLUGIN;

/// Why a text is no network configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum Wrong {
    #[error("is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Form(&'static str),
}

/// The list with `entry` in it, as the last; `None` when it is there as it should be.
pub(super) fn add(text: &str, entry: &Value) -> Result<Option<String>, Wrong> {
    let plugins = plugins(text)?;
    let mut ours = plugins.iter().filter(|plugin| is_ours(&plugin.1));
    if let (Some((_, found)), None) = (ours.next(), ours.next())
        && found == entry
    {
        return Ok(None);
    }
    let text = take_out(text)?.unwrap_or_else(|| text.to_owned());
    let plugins = self::plugins(&text)?;
    let Some((last, _)) = plugins.last() else {
        return Err(Wrong::Form("lists no plugin but ours"));
    };
    // On a line of its own where the last one is.
    let before = &text[..last.start];
    let gap = &before[before.trim_end().len()..];
    let (head, tail) = text.split_at(last.end);
    Ok(Some(format!("{head},{gap}{entry}{tail}")))
}

/// The list without our entries; `None` when there are none.
pub(super) fn take_out(text: &str) -> Result<Option<String>, Wrong> {
    let mut text = text.to_owned();
    let mut found = false;
    loop {
        let plugins = plugins(&text)?;
        let Some(at) = plugins.iter().position(|plugin| is_ours(&plugin.1)) else {
            return Ok(found.then_some(text));
        };
        let ours = &plugins[at].0;
        // With the comma that parts it from its neighbour.
        let range = match (at.checked_sub(1), plugins.get(at + 1)) {
            (Some(before), _) => plugins[before].0.end..ours.end,
            (None, Some((next, _))) => ours.start..next.start,
            (None, None) => ours.clone(),
        };
        text.replace_range(range, "");
        found = true;
    }
}

/// A list of the single plugin that `text` is, and `entry`.
pub(super) fn wrap(text: &str, entry: &Value) -> Result<String, Wrong> {
    let plugin: Value = serde_json::from_str(text)?;
    let (Some(name), Some(_)) = (plugin["name"].as_str(), plugin["type"].as_str()) else {
        return Err(Wrong::Form(
            "is no CNI plugin's configuration: name or type is missing",
        ));
    };
    let mut list = json!({"name": name, "plugins": [plugin, entry]});
    if let Some(version) = plugin.get("cniVersion") {
        list["cniVersion"] = version.clone();
    }
    Ok(format!("{list:#}\n"))
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

/// The plugins of a list, with the places in the text where they stand.
fn plugins(text: &str) -> Result<Vec<(Range<usize>, Value)>, Wrong> {
    let list: Value = serde_json::from_str(text)?;
    if !list["name"].is_string() {
        return Err(Wrong::Form("is no list of CNI plugins: name is missing"));
    }
    let parsed = list["plugins"]
        .as_array()
        .filter(|plugins| !plugins.is_empty());
    let parsed = parsed.ok_or(Wrong::Form(
        "is no list of CNI plugins: plugins is missing or empty",
    ))?;
    if !parsed.iter().all(|plugin| plugin["type"].is_string()) {
        return Err(Wrong::Form("has a plugin without a type"));
    }
    let members = items(text, 0..text.len());
    // Of two members with one name the last counts, here as for the container runtimes.
    let value = members.iter().rev().find_map(|member| {
        let key_end = end_of_value(text.as_bytes(), member.start);
        let key: String = serde_json::from_str(&text[member.start..key_end]).ok()?;
        let colon = text[key_end..].find(':')? + key_end + 1;
        (key == "plugins").then_some(colon..member.end)
    });
    let places = value.map_or_else(Vec::new, |value| items(text, value));
    Ok(places.into_iter().zip(parsed.iter().cloned()).collect())
}

/// Where the items of the object or array in `range` stand, without the white space around
/// them. The text must be JSON.
fn items(text: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let mut items = Vec::new();
    let mut at = skip_space(bytes, range.start) + 1;
    loop {
        at = skip_space(bytes, at);
        if at >= range.end || matches!(bytes[at], b'}' | b']') {
            return items;
        }
        let start = at;
        let mut end = end_of_value(bytes, at);
        // An object's member goes on with its value.
        let after = skip_space(bytes, end);
        if bytes.get(after) == Some(&b':') {
            end = end_of_value(bytes, skip_space(bytes, after + 1));
        }
        items.push(start..end);
        at = skip_space(bytes, end);
        if bytes.get(at) == Some(&b',') {
            at += 1;
        }
    }
}

fn skip_space(bytes: &[u8], from: usize) -> usize {
    let space = bytes[from.min(bytes.len())..].iter();
    from + space.take_while(|byte| byte.is_ascii_whitespace()).count()
}

/// Where the value that begins at `from` ends.
fn end_of_value(bytes: &[u8], from: usize) -> usize {
    let mut depth = 0usize;
    let mut at = from;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => {
                at = end_of_string(bytes, at);
                if depth == 0 {
                    return at;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth == 0 => return at,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return at + 1;
                }
            }
            b',' | b':' if depth == 0 => return at,
            space if depth == 0 && space.is_ascii_whitespace() => return at,
            _ => {}
        }
        at += 1;
    }
    at
}

fn end_of_string(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Value {
        json!({"type": "isthmus", "socket": "/run/isthmus/cni.sock"})
    }

    const LISTS: [&str; 4] = [
        "{\n  \"name\": \"net\",\n  \"plugins\": [\n    {\"type\": \"bridge\", \"x\": [1, 2.50]},\n    \
         {\"type\": \"portmap\"}\n  ],\n  \"later\": null\n}\n",
        r#"{"name":"a","plugins":[{"type":"b"}]}"#,
        r#" { "plugins" : [ {"type":"b","s":"]},\"plugins\":["} ] , "name":"a" , "n":1 }"#,
        r#"{"name":"a","plugins":[{"type":"lost"}],"plugins":[{"type":"b"}]}"#,
    ];

    #[test]
    fn in_and_out_again_leaves_every_byte() {
        for list in LISTS {
            let with = add(list, &entry()).unwrap().unwrap();
            let parsed: Value = serde_json::from_str(&with).unwrap();
            let plugins = parsed["plugins"].as_array().unwrap();
            assert_eq!(plugins.last(), Some(&entry()), "{with}");
            assert_ne!(plugins[0]["type"], "lost");
            assert_eq!(add(&with, &entry()).unwrap(), None);
            assert_eq!(take_out(&with).unwrap().as_deref(), Some(list));
            assert_eq!(take_out(list).unwrap(), None);
        }
        let with = add(LISTS[0], &entry()).unwrap().unwrap();
        assert!(
            with.contains("{\"type\": \"portmap\"},\n    {\"socket\""),
            "{with}"
        );
    }

    #[test]
    fn another_entry_of_ours_is_replaced() {
        let old = json!({"type": "isthmus", "socket": "/old"});
        for list in [
            format!(r#"{{"name":"a","plugins":[{{"type":"b"}}, {old}]}}"#),
            format!(r#"{{"name":"a","plugins":[{old}, {{"type":"b"}}]}}"#),
            format!(r#"{{"name":"a","plugins":[{old},{{"type":"b"}},{old}]}}"#),
        ] {
            let with = add(&list, &entry()).unwrap().unwrap();
            let parsed: Value = serde_json::from_str(&with).unwrap();
            assert_eq!(parsed["plugins"], json!([{"type": "b"}, entry()]));
        }
    }

    #[test]
    fn ours_stays_where_another_tool_chained_after_it() {
        let list = format!(
            r#"{{"name":"a","plugins":[{{"type":"b"}},{},{{"type":"c"}}]}}"#,
            entry()
        );
        assert_eq!(add(&list, &entry()).unwrap(), None);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in [
            "",
            "{",
            "[]",
            "null",
            r#"{"plugins":[{"type":"b"}]}"#,
            r#"{"name":"a"}"#,
            r#"{"name":"a","plugins":[]}"#,
            r#"{"name":"a","plugins":{}}"#,
            r#"{"name":"a","plugins":[1]}"#,
            r#"{"name":"a","plugins":[{"type":"isthmus"}]}"#,
        ] {
            assert!(add(text, &entry()).is_err(), "{text}");
        }
        for text in ["", "[]", r#"{"name":"a"}"#, r#"{"type":"b"}"#] {
            assert!(wrap(text, &entry()).is_err(), "{text}");
        }
    }

    #[test]
    fn a_single_plugin_becomes_the_first_of_a_list() {
        let single = json!({"cniVersion": "0.4.0", "name": "net", "type": "bridge", "x": 1});
        let list: Value =
            serde_json::from_str(&wrap(&single.to_string(), &entry()).unwrap()).unwrap();
        let wanted = json!({"cniVersion": "0.4.0", "name": "net", "plugins": [single, entry()]});
        assert_eq!(list, wanted);
    }
}
