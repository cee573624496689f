//! The custom resources' definitions: that they are structural, and that they know the
//! fields that the model reads, no fewer and no more.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;

/// Of a structural schema
/// (<https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema>),
/// what is used here. Keywords that are not on the list are refused, those of JSON Schema
/// that the API server does not take among them.
const KEYWORDS: [&str; 21] = [
    "additionalProperties",
    "description",
    "enum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "minItems",
    "minLength",
    "minProperties",
    "pattern",
    "properties",
    "required",
    "type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
    "maximum",
    "minimum",
];

fn definitions() -> Vec<Manifest> {
    let mut all = build("crds").unwrap();
    all.retain(|it| it.kind() == "CustomResourceDefinition");
    assert_eq!(all.len(), 3);
    all
}

fn versions(definition: &Manifest) -> &[Value] {
    definition.value()["spec"]["versions"].as_array().unwrap()
}

fn is_structural(schema: &Value, path: &str) {
    let schema = schema.as_object().unwrap_or_else(|| panic!("{path}"));
    for keyword in schema.keys() {
        assert!(KEYWORDS.contains(&keyword.as_str()), "{path}: {keyword}");
    }
    let kind = schema["type"]
        .as_str()
        .unwrap_or_else(|| panic!("{path} has no type"));
    let (has_properties, has_items) = (
        schema.contains_key("properties"),
        schema.contains_key("items"),
    );
    assert_eq!(has_items, kind == "array", "{path}");
    assert!(!has_properties || kind == "object", "{path}");
    assert!(
        !(has_properties && schema.contains_key("additionalProperties")),
        "{path}: one of the two"
    );
    let properties = schema.get("properties").and_then(Value::as_object);
    for name in schema
        .get("required")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let is_there = properties.is_some_and(|it| it.contains_key(name.as_str().unwrap()));
        assert!(is_there, "{path}: {name} is required and not there");
    }
    for (name, schema) in properties.into_iter().flatten() {
        is_structural(schema, &format!("{path}.{name}"));
    }
    for inner in ["items", "additionalProperties"] {
        if let Some(schema) = schema.get(inner) {
            is_structural(schema, &format!("{path}[]"));
        }
    }
}

#[test]
fn the_schemas_are_structural() {
    for definition in definitions() {
        for version in versions(&definition) {
            is_structural(&version["schema"]["openAPIV3Schema"], definition.name());
        }
    }
}

/// The API server drops fields that a schema lacks, and a policy without its `not…` field
/// lets in more: so unknown fields are kept, and the agent refuses the object.
#[test]
fn schemas_keep_unknown_fields_at_every_level() {
    fn keeps(schema: &Value, path: &str) {
        if schema.get("properties").is_some() {
            let kept = &schema["x-kubernetes-preserve-unknown-fields"];
            assert_eq!(*kept, true, "{path}");
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            // Of no meaning to the agent.
            if name != "status" {
                keeps(inner, &format!("{path}.{name}"));
            }
        }
        for inner in ["items", "additionalProperties"] {
            if let Some(inner) = schema.get(inner) {
                keeps(inner, &format!("{path}[]"));
            }
        }
    }
    for definition in definitions() {
        for version in versions(&definition) {
            keeps(&version["schema"]["openAPIV3Schema"], definition.name());
        }
    }
}

#[test]
fn names_and_versions_agree() {
    for definition in definitions() {
        let spec = &definition.value()["spec"];
        let (plural, group) = (&spec["names"]["plural"], &spec["group"]);
        let name = format!("{}.{}", plural.as_str().unwrap(), group.as_str().unwrap());
        assert_eq!(definition.name(), name);
        let stored = versions(&definition)
            .iter()
            .filter(|it| it["storage"] == true);
        assert_eq!(stored.count(), 1, "{name}");
        let first = &versions(&definition)[0]["schema"];
        assert!(versions(&definition).iter().all(|it| it["served"] == true));
        assert!(
            versions(&definition)
                .iter()
                .all(|it| it["schema"] == *first),
            "{name}: no conversion is needed only while all versions are the same"
        );
    }
}

/// An object with every field that the schema knows.
fn full(schema: &Value) -> Value {
    match schema["type"].as_str().unwrap() {
        "object" => {
            let properties = schema["properties"].as_object();
            let mut object: serde_json::Map<String, Value> = properties
                .into_iter()
                .flatten()
                .map(|(name, schema)| (name.clone(), full(schema)))
                .collect();
            if let Some(schema) = schema.get("additionalProperties") {
                object.insert("80".to_owned(), full(schema));
            }
            Value::Object(object)
        }
        "array" => Value::Array(vec![full(&schema["items"])]),
        "string" => match schema["enum"].as_array() {
            Some(values) => values[0].clone(),
            None => "text".into(),
        },
        other => panic!("no example of {other}"),
    }
}

fn spec_schema(kind: &str) -> Value {
    let all = definitions();
    let is_of = |it: &&Manifest| it.value()["spec"]["names"]["kind"] == kind;
    let definition = all.iter().find(is_of).unwrap();
    versions(definition)[0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Unknown fields are errors to the model, so it has all that the schemas have.
#[test]
fn the_model_reads_every_field_of_the_schemas() {
    fn read<T: serde::de::DeserializeOwned>(kind: &str, schema: &Value) {
        let spec = full(schema);
        if let Err(error) = serde_json::from_value::<T>(spec.clone()) {
            panic!("{kind}: {error} in {spec}");
        }
        // Each value of each enumeration.
        for pointer in enumerations(schema, String::new()) {
            let values = schema.pointer(&pointer.0).unwrap()["enum"]
                .as_array()
                .unwrap();
            for value in values {
                let mut spec = spec.clone();
                *spec.pointer_mut(&pointer.1).unwrap() = value.clone();
                let read = serde_json::from_value::<T>(spec);
                assert!(read.is_ok(), "{kind}: {} {value}", pointer.1);
            }
        }
    }
    use crate::model::schema as model;
    let of = spec_schema;
    read::<model::PeerAuthenticationSpec>("PeerAuthentication", &of("PeerAuthentication"));
    read::<model::AuthorizationPolicySpec>("AuthorizationPolicy", &of("AuthorizationPolicy"));
    read::<model::MeshConfigSpec>("MeshConfig", &of("MeshConfig"));
}

/// Where the schema enumerates, and where that is in [`full`].
fn enumerations(schema: &Value, at: String) -> Vec<(String, String)> {
    fn walk(schema: &Value, at: (String, String), found: &mut Vec<(String, String)>) {
        if schema.get("enum").is_some() {
            found.push(at.clone());
        }
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            let at = (
                format!("{}/properties/{name}", at.0),
                format!("{}/{name}", at.1),
            );
            walk(inner, at, found);
        }
        for (keyword, key) in [("items", "0"), ("additionalProperties", "80")] {
            if let Some(inner) = schema.get(keyword) {
                let at = (format!("{}/{keyword}", at.0), format!("{}/{key}", at.1));
                walk(inner, at, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(schema, (at.clone(), at), &mut found);
    found
}

/// What serde says the model has: the list in its complaint about a field that it has not.
fn fields<T: serde::de::DeserializeOwned>() -> BTreeSet<String> {
    let stranger = serde_json::json!({"no such field": 0});
    let Err(error) = serde_json::from_value::<T>(stranger) else {
        panic!("the model takes fields that it does not know")
    };
    let error = error.to_string();
    let (_, expected) = error.split_once("expected").unwrap();
    expected
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// And the schemas have all that the model reads: the API server drops what they lack.
#[test]
fn the_schemas_have_every_field_of_the_model() {
    use crate::model::schema as model;
    let peer = spec_schema("PeerAuthentication");
    let authorization = spec_schema("AuthorizationPolicy");
    let mesh = spec_schema("MeshConfig");
    let rule = "/properties/rules/items";
    let from = format!("{rule}/properties/from/items");
    let to = format!("{rule}/properties/to/items");
    let cases: [(&Value, &str, BTreeSet<String>); 15] = [
        (&peer, "", fields::<model::PeerAuthenticationSpec>()),
        (
            &peer,
            "/properties/selector",
            fields::<model::LabelSelector>(),
        ),
        (&peer, "/properties/mtls", fields::<model::MutualTls>()),
        (
            &peer,
            "/properties/portLevelMtls/additionalProperties",
            fields::<model::MutualTls>(),
        ),
        (
            &authorization,
            "",
            fields::<model::AuthorizationPolicySpec>(),
        ),
        (
            &authorization,
            "/properties/targetRef",
            fields::<model::TargetRef>(),
        ),
        (
            &authorization,
            "/properties/targetRefs/items",
            fields::<model::TargetRef>(),
        ),
        (&authorization, rule, fields::<model::PolicyRule>()),
        (&authorization, &from, fields::<model::RuleFrom>()),
        (
            &authorization,
            &format!("{from}/properties/source"),
            fields::<model::Source>(),
        ),
        (
            &authorization,
            &format!("{to}/properties/operation"),
            fields::<model::Operation>(),
        ),
        (
            &authorization,
            &format!("{rule}/properties/when/items"),
            fields::<model::Condition>(),
        ),
        (&mesh, "", fields::<model::MeshConfigSpec>()),
        (&mesh, "/properties/meshMTLS", fields::<model::TlsConfig>()),
        (
            &mesh,
            "/properties/caCertificates/items",
            fields::<model::CertificateData>(),
        ),
    ];
    for (schema, pointer, fields) in cases {
        let schema = schema
            .pointer(pointer)
            .unwrap_or_else(|| panic!("no {pointer}"));
        let properties = schema["properties"].as_object().unwrap();
        let properties: BTreeSet<String> = properties.keys().cloned().collect();
        assert_eq!(properties, fields, "{pointer}");
    }
}
