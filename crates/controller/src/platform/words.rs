//! What stands in braces in a command or a variable, filled in when a process is started.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use segue_core::names::ComponentName;

/// Values by the name that stands in braces.
#[derive(Debug, Clone, Default)]
pub(crate) struct Words(BTreeMap<String, String>);

impl Words {
    /// Adds one.
    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert(name.into(), value.into());
    }

    /// Adds the address of a component: `{NAME.url}`, `{NAME.addr}` and `{NAME.port}`.
    pub(crate) fn set_component(&mut self, name: &ComponentName, addr: SocketAddr) {
        self.set(format!("{name}.url"), format!("http://{addr}"));
        self.set(format!("{name}.addr"), addr.to_string());
        self.set(format!("{name}.port"), addr.port().to_string());
    }

    /// A text with everything filled in that is known. What is filled in is not looked at again:
    /// a value may hold braces.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('{') {
            filled.push_str(&rest[..at]);
            rest = &rest[at..];
            let name = rest[1..].split('}').next().unwrap_or_default();
            let whole = rest.len() > name.len() + 1;
            if let Some(value) = self.0.get(name).filter(|_| whole) {
                filled.push_str(value);
                rest = &rest[name.len() + 2..];
            } else {
                filled.push('{');
                rest = &rest[1..];
            }
        }
        filled.push_str(rest);
        filled
    }
}

/// The variable that holds the address of a component.
pub(crate) fn url_variable(name: &ComponentName) -> String {
    let letter = |letter: char| match letter {
        letter if letter.is_ascii_alphanumeric() => letter.to_ascii_uppercase(),
        _ => '_',
    };
    let name: String = name.as_str().chars().map(letter).collect();
    format!("SEGUE_{name}_URL")
}

/// The component whose address a text asks for with `{NAME.url}`, `{NAME.addr}` or `{NAME.port}`.
pub(crate) fn components_in(text: &str) -> impl Iterator<Item = &str> {
    text.split('{').skip(1).filter_map(|rest| {
        let (name, _) = rest.split_once('}')?;
        let (component, what) = name.rsplit_once('.')?;
        (matches!(what, "url" | "addr" | "port") && component.parse::<ComponentName>().is_ok())
            .then_some(component)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_filled_in_once() {
        let mut words = Words::default();
        words.set("port", "7");
        words.set("model", "{port}");
        words.set_component(&"engine".parse().unwrap(), ([127, 0, 0, 1], 9).into());
        for (text, filled) in [
            ("--port={port}", "--port=7"),
            ("{engine.url}/v1", "http://127.0.0.1:9/v1"),
            ("{engine.addr} {engine.port}", "127.0.0.1:9 9"),
            ("{model}", "{port}"),
            ("{\"a\": {\"port\": {port}}}", "{\"a\": {\"port\": 7}}"),
            ("{{port}}", "{7}"),
            ("{port", "{port"),
            ("{other} {}", "{other} {}"),
            ("", ""),
        ] {
            assert_eq!(words.fill(text), filled, "{text:?}");
        }
    }

    #[test]
    fn components_are_named_by_what_is_asked_of_them() {
        let names = |text| components_in(text).collect::<Vec<_>>();
        assert_eq!(names("{engine.url} {a.b.port}"), ["engine", "a.b"]);
        assert_eq!(names("{engine.name} {port} {.url} {\"a.url\": 1}"), [""; 0]);
        let variable = url_variable(&"license-proxy".parse().unwrap());
        assert_eq!(variable, "SEGUE_LICENSE_PROXY_URL");
    }
}
