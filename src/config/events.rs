//! Event settings.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::{Map, Value};
use url::Url;

use super::{Vars, vars::on_or_off};
use crate::{
    events::{
        Action,
        delivery::{Endpoint, Form, Globs, Ignore, Retries, endpoint},
    },
    platform::address::{self, InvalidAddress},
};

/// The name of the setting.
const ENDPOINTS: &str = "EVENT_ENDPOINTS";

/// Headers that the registry writes itself.
const OWN_HEADERS: [HeaderName; 4] =
    [header::CONTENT_TYPE, header::CONTENT_LENGTH, header::HOST, header::TRANSFER_ENCODING];

/// The longest time to give up, in milliseconds.
const MAX_GIVE_UP: u64 = 7 * 24 * 60 * 60 * 1000;

/// Where events go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventConfig {
    /// `EVENT_ENDPOINTS`: the receivers.
    pub endpoints: Vec<Endpoint>,
    /// `EVENT_REFERENCES`: events of manifests say what the manifest refers to.
    pub references: bool,
    /// `EVENT_PRIVATE_ENDPOINTS`: endpoints may have private addresses and use http.
    pub private_endpoints: bool,
}

impl EventConfig {
    pub(super) fn read(vars: &mut Vars<'_>) -> Self {
        let text = vars.text(ENDPOINTS);
        let references = vars.read("EVENT_REFERENCES", false, on_or_off);
        let private_endpoints = vars.read("EVENT_PRIVATE_ENDPOINTS", false, on_or_off);
        let endpoints = text.map_or_else(Vec::new, |text| endpoints(&text, vars, private_endpoints));
        Self { endpoints, references, private_endpoints }
    }

    /// The endpoint with a name.
    pub fn endpoint(&self, name: &str) -> Option<&Endpoint> {
        self.endpoints.iter().find(|endpoint| endpoint.name == name)
    }
}

fn endpoints(text: &str, vars: &mut Vars<'_>, may_be_private: bool) -> Vec<Endpoint> {
    let Ok(list) = serde_json::from_str::<Vec<Map<String, Value>>>(text) else {
        vars.error(format!("{ENDPOINTS} must be a JSON list of endpoints, each an object with name and url"));
        return Vec::new();
    };
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for (fields, number) in list.into_iter().zip(1..) {
        let mut fields = Fields { of: format!("endpoint {number}"), fields, vars };
        if let Some(endpoint) = read_endpoint(&mut fields, may_be_private) {
            if endpoints.iter().any(|other| other.name == endpoint.name) {
                fields.error("name", "unique");
            }
            endpoints.push(endpoint);
        }
    }
    endpoints
}

fn read_endpoint(fields: &mut Fields<'_, '_>, may_be_private: bool) -> Option<Endpoint> {
    let expected = "up to 63 lower case letters, digits, and dashes inside";
    let name = fields.text("name", expected, |text| endpoint::is_name(text).then(|| text.to_owned()));
    match &name {
        Some(name) => fields.of = format!("endpoint {name}"),
        None => fields.missing("name", expected),
    }
    let url = url(fields, may_be_private);
    let headers = headers(fields);
    let signing_secret = fields.secret("signing_secret");
    let default = Retries::default();
    let timeout = fields.time("timeout", 5000, 1000, 30_000);
    let backoff = fields.time("backoff", default.backoff, 1000, 60 * 60 * 1000);
    let max_backoff =
        fields.time("max_backoff", default.max_backoff.max(backoff), backoff, 24 * 60 * 60 * 1000);
    let give_up = fields.time("give_up", default.give_up, 1000, MAX_GIVE_UP);
    let threshold = match fields.fields.remove("threshold") {
        None => default.threshold,
        Some(value) => {
            let number = value.as_u64().filter(|number| (1..=1000).contains(number));
            let number = number.and_then(|number| u32::try_from(number).ok());
            if number.is_none() {
                fields.error("threshold", "a number from 1 to 1000");
            }
            number.unwrap_or(default.threshold)
        }
    };
    let form = fields.text("form", "one of distribution, cloudevents", |text| match text {
        "distribution" => Some(Form::Distribution),
        "cloudevents" => Some(Form::CloudEvents),
        _ => None,
    });
    let disabled = match fields.fields.remove("disabled") {
        None => false,
        Some(Value::Bool(disabled)) => disabled,
        Some(_) => {
            fields.error("disabled", "true or false");
            false
        }
    };
    let mut repositories = Globs::default();
    for pattern in fields.texts("repositories") {
        if repositories.add(&pattern).is_none() {
            let expected = "a list of names, with * for characters of a component, ** for any, and ! in front to exclude";
            fields.error("repositories", expected);
        }
    }
    let ignore = ignore(fields);
    let unknown: Vec<String> = fields.fields.keys().cloned().collect();
    for field in unknown {
        fields.error(&field, "left out: there is no such field");
    }
    let target = endpoint::Target { url: url?, headers, signing_secret };
    let retries = Retries { threshold, backoff, max_backoff, give_up };
    let (name, form) = (name?, form.unwrap_or_default());
    Some(Endpoint { name, target, form, timeout, retries, ignore, repositories, disabled })
}

fn url(fields: &mut Fields<'_, '_>, may_be_private: bool) -> Option<Url> {
    let Some(text) = fields.secret("url") else {
        fields.missing("url", "an https URL");
        return None;
    };
    let Ok(url) = text.parse::<Url>() else {
        fields.error("url", "an https URL");
        return None;
    };
    if let Err(error) = address::check(&url, may_be_private) {
        let hint = if error == InvalidAddress::Credentials { ": use the header authorization" } else { "" };
        fields.error("url", &(error.unless("EVENT_PRIVATE_ENDPOINTS") + hint));
    }
    Some(url)
}

fn headers(fields: &mut Fields<'_, '_>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    match fields.fields.remove("headers") {
        None => {}
        Some(Value::Object(map)) => {
            for (name, value) in map {
                let field = format!("headers.{name}");
                let Value::String(value) = value else {
                    fields.error(&field, "a text");
                    continue;
                };
                let Some(value) = fields.expand(&field, &value) else { continue };
                let name = name.parse::<HeaderName>().ok();
                let name = name
                    .filter(|name| !OWN_HEADERS.contains(name) && !name.as_str().starts_with("pierhead-"));
                match (name, HeaderValue::from_str(&value)) {
                    (Some(name), Ok(mut value)) => {
                        value.set_sensitive(true);
                        headers.insert(name, value);
                    }
                    (None, _) => fields.error(&field, "a header that the registry does not write itself"),
                    (_, Err(_)) => fields.error(&field, "visible characters"),
                }
            }
        }
        Some(_) => fields.error("headers", "a table of names and values"),
    }
    headers
}

fn ignore(fields: &mut Fields<'_, '_>) -> Ignore {
    let mut ignore = Ignore::default();
    match fields.fields.remove("ignore") {
        None => {}
        Some(Value::Object(inner)) => {
            let mut inner = Fields { of: format!("{}: ignore", fields.of), fields: inner, vars: fields.vars };
            ignore.media_types = inner.texts("media_types");
            for name in inner.texts("actions") {
                match Action::ALL.into_iter().find(|action| action.as_str() == name) {
                    Some(action) => ignore.actions.push(action),
                    None => inner.error("actions", "a list of push, pull, mount, delete"),
                }
            }
            let unknown: Vec<String> = inner.fields.keys().cloned().collect();
            for field in unknown {
                inner.error(&field, "left out: there is no such field");
            }
        }
        Some(_) => fields.error("ignore", "a table with media_types and actions"),
    }
    ignore
}

/// The fields of an endpoint that are not read yet.
struct Fields<'a, 'v> {
    /// What errors name.
    of: String,
    fields: Map<String, Value>,
    vars: &'a mut Vars<'v>,
}

impl Fields<'_, '_> {
    fn error(&mut self, field: &str, expected: &str) {
        self.vars.error(format!("{ENDPOINTS}: {}: {field} must be {expected}", self.of));
    }

    /// Reports that a required field is missing, unless it was reported as wrong.
    fn missing(&mut self, field: &str, expected: &str) {
        if !self.vars.has_error_in(&format!("{ENDPOINTS}: {}: {field} must be ", self.of)) {
            self.error(field, expected);
        }
    }

    fn text<T>(&mut self, field: &str, expected: &str, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let value = self.fields.remove(field)?;
        let parsed = value.as_str().and_then(parse);
        if parsed.is_none() {
            self.error(field, expected);
        }
        parsed
    }

    /// A time in milliseconds.
    fn time(&mut self, field: &str, default: u64, least: u64, most: u64) -> u64 {
        let expected =
            format!("a time between {}s and {}s, such as 5s, 10m or 24h", least / 1000, most / 1000);
        let parsed = self.text(field, &expected, |text| {
            let milliseconds = super::vars::seconds(text)?.checked_mul(1000)?;
            (least..=most).contains(&milliseconds).then_some(milliseconds)
        });
        parsed.unwrap_or(default)
    }

    fn texts(&mut self, field: &str) -> Vec<String> {
        let Some(value) = self.fields.remove(field) else { return Vec::new() };
        let texts = value.as_array().and_then(|list| {
            list.iter().map(|value| value.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>()
        });
        if texts.is_none() {
            self.error(field, "a list of texts");
        }
        texts.unwrap_or_default()
    }

    /// A text with `${NAME}` replaced.
    fn secret(&mut self, field: &str) -> Option<String> {
        let text = self.text(field, "a text", |text| Some(text.to_owned()))?;
        self.expand(field, &text).filter(|text| {
            if text.is_empty() {
                self.error(field, "a text");
            }
            !text.is_empty()
        })
    }

    /// Replaces `${NAME}` with the variable or secret.
    fn expand(&mut self, field: &str, text: &str) -> Option<String> {
        let (mut expanded, mut rest) = (String::new(), text);
        while let Some((before, after)) = rest.split_once("${") {
            let Some((name, after)) = after.split_once('}') else {
                self.error(field, "a text with a } after each ${");
                return None;
            };
            let Some(value) = self.vars.other(name) else {
                self.error(field, &format!("a text whose ${{{name}}} is set, as a variable or secret"));
                return None;
            };
            expanded.push_str(before);
            expanded.push_str(value.trim());
            rest = after;
        }
        expanded.push_str(rest);
        Some(expanded)
    }
}

#[cfg(test)]
#[cfg(not(target_arch = "wasm32"))]
mod tests {
    use crate::{
        config::{Config, ConfigError},
        events::{Action, delivery::Form},
    };

    fn read(endpoints: &str, others: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_vars(|name| match name {
            "EVENT_ENDPOINTS" => Some(endpoints.to_owned()),
            "SIGNING_SECRET" => Some("generated".to_owned()),
            "POLICY" => Some(String::new()),
            _ => others.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()),
        })
    }

    #[test]
    fn an_endpoint_needs_a_name_and_a_url() {
        let config = read(r#"[{"name": "ci", "url": "https://ci.example.com/hook"}]"#, &[]).unwrap();
        let [endpoint] = &config.events.endpoints[..] else { panic!("{config:?}") };
        assert_eq!(
            (endpoint.timeout, endpoint.retries.threshold, endpoint.form),
            (5000, 10, Form::Distribution)
        );
        let retries = endpoint.retries;
        assert_eq!((retries.backoff, retries.max_backoff, retries.give_up), (1000, 600_000, 86_400_000));
        assert!(!endpoint.disabled && endpoint.target.signing_secret.is_none());
    }

    #[test]
    fn every_field_is_read() {
        let text = r#"[{
            "name": "ci", "url": "https://ci.example.com/${TOKEN}", "timeout": "30s", "threshold": 3,
            "backoff": "2s", "max_backoff": "1h", "give_up": "7d", "form": "cloudevents", "disabled": true,
            "headers": {"Authorization": "Bearer ${TOKEN}", "X-A": "${A}${B}"}, "signing_secret": "${TOKEN}",
            "ignore": {"media_types": ["application/octet-stream"], "actions": ["pull", "mount"]},
            "repositories": ["team/**", "!team/x"]
        }]"#;
        let config = read(text, &[("TOKEN", "hidden\n"), ("A", "1"), ("B", "2")]).unwrap();
        assert!(!format!("{config:?}").contains("hidden"), "{config:?}");
        let [endpoint] = &config.events.endpoints[..] else { panic!() };
        assert_eq!(endpoint.target.url.as_str(), "https://ci.example.com/hidden");
        assert_eq!(endpoint.target.headers["authorization"], "Bearer hidden");
        assert_eq!(endpoint.target.headers["x-a"], "12");
        assert_eq!(endpoint.target.signing_secret.as_deref(), Some("hidden"));
        assert_eq!(
            (endpoint.timeout, endpoint.retries.threshold, endpoint.form),
            (30_000, 3, Form::CloudEvents)
        );
        let retries = endpoint.retries;
        assert_eq!((retries.backoff, retries.max_backoff, retries.give_up), (2000, 3_600_000, 604_800_000));
        assert!(endpoint.disabled);
        assert_eq!(endpoint.ignore.actions, [Action::Pull, Action::Mount]);
        assert_eq!(endpoint.ignore.media_types, ["application/octet-stream"]);
        assert!(endpoint.repositories.matches(&"team/a".parse().unwrap()));
        assert!(!endpoint.repositories.matches(&"team/x".parse().unwrap()));
    }

    #[test]
    fn every_error_names_the_endpoint_the_field_and_what_is_expected() {
        for (fields, expected) in [
            (
                r#""url": "http://ci.example.com/""#,
                "url must be an https URL, unless EVENT_PRIVATE_ENDPOINTS is on",
            ),
            (
                r#""url": "https://10.0.0.1/""#,
                "url must be a URL with a public host, unless EVENT_PRIVATE_ENDPOINTS is on",
            ),
            (
                r#""url": "https://a:b@x.example/""#,
                "url must be a URL without a user and a password: use the header authorization",
            ),
            (r#""url": "ci""#, "url must be an https URL"),
            (r#""url": 5"#, "url must be a text"),
            (r#""timeout": "500ms""#, "timeout must be a time between 1s and 30s, such as 5s, 10m or 24h"),
            (r#""timeout": 5"#, "timeout must be a time between 1s and 30s, such as 5s, 10m or 24h"),
            (r#""timeout": "31s""#, "timeout must be a time between 1s and 30s, such as 5s, 10m or 24h"),
            (r#""give_up": "8d""#, "give_up must be a time between 1s and 604800s, such as 5s, 10m or 24h"),
            (r#""backoff": "0s""#, "backoff must be a time between 1s and 3600s, such as 5s, 10m or 24h"),
            (
                r#""backoff": "1m", "max_backoff": "1s""#,
                "max_backoff must be a time between 60s and 86400s, such as 5s, 10m or 24h",
            ),
            (r#""threshold": 0"#, "threshold must be a number from 1 to 1000"),
            (r#""threshold": "3""#, "threshold must be a number from 1 to 1000"),
            (r#""form": "xml""#, "form must be one of distribution, cloudevents"),
            (r#""disabled": "yes""#, "disabled must be true or false"),
            (r#""headers": ["a"]"#, "headers must be a table of names and values"),
            (
                r#""headers": {"a b": "c"}"#,
                "headers.a b must be a header that the registry does not write itself",
            ),
            (
                r#""headers": {"Content-Type": "c"}"#,
                "headers.Content-Type must be a header that the registry does not write itself",
            ),
            (r#""headers": {"a": "c\n"}"#, "headers.a must be visible characters"),
            (r#""headers": {"a": 1}"#, "headers.a must be a text"),
            (
                r#""headers": {"a": "${NONE}"}"#,
                "headers.a must be a text whose ${NONE} is set, as a variable or secret",
            ),
            (r#""signing_secret": """#, "signing_secret must be a text"),
            (r#""signing_secret": "${A""#, "signing_secret must be a text with a } after each ${"),
            (r#""ignore": []"#, "ignore must be a table with media_types and actions"),
            (
                r#""ignore": {"actions": ["look"]}"#,
                "ignore: actions must be a list of push, pull, mount, delete",
            ),
            (r#""ignore": {"action": []}"#, "ignore: action must be left out: there is no such field"),
            (r#""repositories": "team""#, "repositories must be a list of texts"),
            (
                r#""repositories": ["Team"]"#,
                "repositories must be a list of names, with * for characters of a component, ** for any, and ! in front to exclude",
            ),
            (r#""urls": []"#, "urls must be left out: there is no such field"),
        ] {
            let url = if fields.starts_with("\"url\"") { "" } else { r#""url": "https://ci.example.com/","# };
            let text = format!(r#"[{{"name": "ci", {url} {fields}}}]"#);
            let ConfigError(errors) = read(&text, &[]).unwrap_err();
            assert_eq!(errors, [format!("EVENT_ENDPOINTS: endpoint ci: {expected}")], "{text}");
        }
    }

    #[test]
    fn names_are_required_valid_and_unique() {
        let url = r#""url": "https://ci.example.com/""#;
        let name = "name must be up to 63 lower case letters, digits, and dashes inside";
        for (text, expected) in [
            (format!("[{{{url}}}]"), format!("EVENT_ENDPOINTS: endpoint 1: {name}")),
            (format!(r#"[{{{url}, "name": "C I"}}]"#), format!("EVENT_ENDPOINTS: endpoint 1: {name}")),
            (
                format!(r#"[{{{url}, "name": "a"}}, {{{url}, "name": "a"}}]"#),
                "EVENT_ENDPOINTS: endpoint a: name must be unique".to_owned(),
            ),
            (
                r#"[{"name": "a"}]"#.to_owned(),
                "EVENT_ENDPOINTS: endpoint a: url must be an https URL".to_owned(),
            ),
        ] {
            assert_eq!(read(&text, &[]).unwrap_err().0, [expected], "{text}");
        }
    }

    #[test]
    fn private_addresses_can_be_allowed() {
        let text = r#"[{"name": "ci", "url": "http://127.0.0.1:8080/"}]"#;
        assert!(read(text, &[("EVENT_PRIVATE_ENDPOINTS", "on")]).is_ok());
        assert!(read(text, &[("EVENT_PRIVATE_ENDPOINTS", "off")]).is_err());
    }

    #[test]
    fn errors_show_no_secret() {
        let text = r#"[{"name": "ci", "url": "${URL}", "headers": {"a": "${KEY}"}}]"#;
        let errors = read(text, &[("URL", "http://hidden.example/"), ("KEY", "hid\u{7f}den")]).unwrap_err();
        assert_eq!(errors.0.len(), 2);
        assert!(!errors.to_string().contains("hid"), "{errors}");
    }
}
