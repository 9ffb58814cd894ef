//! Checks answers against the description of the admin API, `src/api/openapi.json`. Every answer that a test gets from one
//! of its endpoints is checked.

use http::Method;
use serde_json::Value;

use super::Answer;

/// The description.
pub fn description() -> Value {
    serde_json::from_str(include_str!("../../src/api/openapi.json")).unwrap()
}

/// Checks an answer. Paths that the description does not have are ignored: another test compares it with the routes.
pub fn check(method: &Method, path: &str, answer: &Answer) {
    if !path.starts_with("/v2/_pierhead/") || path.starts_with("/v2/_pierhead/blobs/") {
        return;
    }
    let document = description();
    let paths = document["paths"].as_object().unwrap();
    let Some((_, item)) = paths.iter().find(|(template, _)| matches(template, path)) else { return };
    let verb = if method == Method::HEAD { "get".to_owned() } else { method.as_str().to_lowercase() };
    let status = answer.status.as_u16();
    let name = format!("{method} {path}: {status}");
    let described = match item.get(&verb) {
        Some(operation) if status < 400 => {
            let described = operation["responses"].get(status.to_string());
            described.unwrap_or_else(|| panic!("{name} is not described"))
        }
        _ => &document["components"]["responses"]["Error"],
    };
    let schema = &described["content"]["application/json"]["schema"];
    if schema.is_null() || method == Method::HEAD {
        assert!(answer.body.is_empty(), "{name} has a body");
        return;
    }
    assert_eq!(answer.header("content-type"), "application/json", "{name}");
    let value = serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{name}: {error}"));
    if let Err(error) = validate(&document, schema, &value) {
        panic!("{name}: {error}: {value}");
    }
}

fn matches(template: &str, path: &str) -> bool {
    let (template, path) = (template.split('/'), path.split('/'));
    let is_same = |(a, b): (&str, &str)| a == b || a.starts_with('{');
    template.clone().count() == path.clone().count() && template.zip(path).all(is_same)
}

/// Validates a value against a schema, of the keywords that the description uses. Another keyword is an error.
pub fn validate(document: &Value, schema: &Value, value: &Value) -> Result<(), String> {
    for (keyword, rule) in schema.as_object().unwrap() {
        let is_valid = match keyword.as_str() {
            "description" => true,
            "required" => {
                let fields = value.as_object().ok_or("no object")?;
                let missing =
                    rule.as_array().unwrap().iter().find(|name| !fields.contains_key(name.as_str().unwrap()));
                missing.map_or(Ok(()), |name| Err(format!("{name} is missing")))?;
                true
            }
            "$ref" => {
                let target = document.pointer(rule.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
                validate(document, target, value)?;
                true
            }
            "type" => match rule {
                Value::Array(types) => types.iter().any(|name| is_of_type(name, value)),
                name => is_of_type(name, value),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "anyOf" => {
                let schemas = rule.as_array().unwrap();
                schemas.iter().any(|schema| validate(document, schema, value).is_ok())
            }
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().unwrap()),
            "format" => {
                assert_eq!(rule, "date-time");
                value.as_str().is_none_or(|text| text.parse::<jiff::Timestamp>().is_ok())
            }
            "items" => {
                for item in value.as_array().into_iter().flatten() {
                    validate(document, rule, item)?;
                }
                true
            }
            "properties" => {
                for (name, schema) in rule.as_object().unwrap() {
                    if let Some(field) = value.get(name) {
                        validate(document, schema, field).map_err(|error| format!("{name}: {error}"))?;
                    }
                }
                true
            }
            "additionalProperties" => {
                assert_eq!(rule, false);
                let known = schema["properties"].as_object().unwrap();
                let unknown =
                    value.as_object().into_iter().flatten().find(|(name, _)| !known.contains_key(*name));
                unknown.map_or(Ok(()), |(name, _)| Err(format!("{name} is not described")))?;
                true
            }
            other => return Err(format!("the keyword {other} is not checked")),
        };
        if !is_valid {
            return Err(format!("{value} is not {keyword} {rule}"));
        }
    }
    Ok(())
}

fn is_of_type(name: &Value, value: &Value) -> bool {
    match name.as_str().unwrap() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("the type {other} is not checked"),
    }
}
