//! What is read from a file, and what is said of one that cannot be.

use std::path::Path;

use super::super::document::read_objects;
use crate::model::{Objects, Problem};

fn read(file: &str, text: &str) -> Result<Objects, Vec<Problem>> {
    read_objects(Path::new(file), text)
}

fn names(objects: &Objects) -> Vec<(usize, &str)> {
    let pods = objects.pods.iter();
    pods.map(|pod| (pod.origin.document, &*pod.object.name))
        .collect()
}

#[test]
fn documents_lists_and_json_are_read() {
    let pod = |name: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}");
    let bare = |name: &str| format!("{{metadata: {{name: {name}}}}}");
    let json = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"}}"#;
    let cases = [
        ("a.yaml", String::new(), vec![]),
        ("a.yaml", "# nothing\n---\n---\n".to_owned(), vec![]),
        (
            "a.yaml",
            format!("---\n{}\n---\n# none\n---\n{}\n", pod("a"), pod("b")),
            vec![(1, "a"), (2, "b")],
        ),
        (
            "a.yaml",
            format!(
                "apiVersion: v1\nkind: List\nitems: [{}, {}]\n---\n{}\n",
                pod("a"),
                pod("b"),
                pod("c")
            ),
            vec![(1, "a"), (2, "b"), (3, "c")],
        ),
        (
            "a.yaml",
            format!(
                "apiVersion: v1\nkind: PodList\nitems: [{}, {}]\n",
                bare("a"),
                bare("b")
            ),
            vec![(1, "a"), (2, "b")],
        ),
        (
            "a.yaml",
            "apiVersion: v1\nkind: List\nitems: null\n".to_owned(),
            vec![],
        ),
        ("a.json", json.to_owned(), vec![(1, "a")]),
        (
            "a.json",
            format!("{json}\n\t{json}"),
            vec![(1, "a"), (2, "a")],
        ),
        (
            "a.json",
            format!(r#"{{"apiVersion":"v1","kind":"List","items":[{json}]}}"#),
            vec![(1, "a")],
        ),
    ];
    for (file, text, expected) in cases {
        let objects = read(file, &text).unwrap_or_else(|problems| panic!("{text}: {problems:?}"));
        assert_eq!(names(&objects), expected, "{text}");
    }
}

#[test]
fn a_key_that_is_a_number_is_its_text() {
    let text = "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {portLevelMtls: {8080: {mode: STRICT}}}\n";
    let objects = read("a.yaml", text).unwrap();
    let spec = &objects.peer_authentications[0].object.spec;
    let ports = spec.port_level_mtls.as_ref().unwrap();
    assert_eq!(ports.keys().collect::<Vec<_>>(), ["8080"]);
}

#[test]
fn what_cannot_be_read_names_object_and_field() {
    let cases = [
        (
            "v1",
            "Pod",
            "spec: {nodeName: [a]}",
            "spec.nodeName",
            "invalid type: sequence, expected a string",
        ),
        (
            "v1",
            "Pod",
            "status: {podIPs: [{ip: 10.1.0.2}, {ip: 7}]}",
            "status.podIPs[1].ip",
            "invalid type: integer `7`, expected a string",
        ),
        (
            "v1",
            "Node",
            "spec: {unschedulable: often}",
            "spec.unschedulable",
            "invalid type: string \"often\", expected a boolean",
        ),
        (
            "v1",
            "Service",
            "spec: {ports: [{port: http}]}",
            "spec.ports[0].port",
            "invalid type: string \"http\", expected i32",
        ),
        (
            "v1",
            "Namespace",
            "spec: 3",
            "spec",
            "invalid type: integer `3`, expected NamespaceSpec",
        ),
        (
            "discovery.k8s.io/v1",
            "EndpointSlice",
            "endpoints: [{conditions: {ready: perhaps}}]",
            "endpoints[0].conditions.ready",
            "invalid type: string \"perhaps\", expected a boolean",
        ),
        (
            "isthmus.dev/v1alpha1",
            "MeshConfig",
            "spec: {trustdomain: a.example}",
            "spec.trustdomain",
            "unknown field `trustdomain`, expected one of `trustDomain`, `trustDomainAliases`, `spiffeIdTemplate`, `rootNamespace`, `meshMTLS`, `caCertificates`, `revocation`, `clusterRanges`",
        ),
        (
            "isthmus.dev/v1alpha1",
            "MeshConfig",
            "specs: {}",
            "specs",
            "unknown field `specs`, expected one of `apiVersion`, `kind`, `metadata`, `spec`, `status`",
        ),
        (
            "security.istio.io/v1",
            "PeerAuthentication",
            "spec: {mtls: {mode: strict}}",
            "spec.mtls.mode",
            "unknown variant `strict`, expected one of `UNSET`, `DISABLE`, `PERMISSIVE`, `STRICT`",
        ),
        (
            "security.istio.io/v1",
            "PeerAuthentication",
            "spec: {mtl: {mode: STRICT}}",
            "spec.mtl",
            "unknown field `mtl`, expected one of `selector`, `mtls`, `portLevelMtls`",
        ),
        (
            "security.istio.io/v2",
            "PeerAuthentication",
            "spec: {}",
            "apiVersion",
            "PeerAuthentication is not read in version security.istio.io/v2",
        ),
        (
            "v1",
            "MeshConfig",
            "spec: {}",
            "apiVersion",
            "MeshConfig is not read in version v1",
        ),
        (
            "isthmus.dev/v1",
            "MeshConfig",
            "spec: {}",
            "apiVersion",
            "MeshConfig is not read in version isthmus.dev/v1",
        ),
        (
            "isthmus.dev/v1alpha1",
            "MeshConfg",
            "spec: {}",
            "kind",
            "Isthmus knows no kind MeshConfg in isthmus.dev/v1alpha1",
        ),
        (
            "discovery.k8s.io/v1beta1",
            "EndpointSlice",
            "ports: []",
            "apiVersion",
            "EndpointSlice is not read in version discovery.k8s.io/v1beta1",
        ),
        (
            "[v1]",
            "Pod",
            "spec: {}",
            "apiVersion",
            "it is missing or not a text, so the object cannot be read",
        ),
    ];
    for (version, kind, rest, field, message) in cases {
        let text = format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: it, namespace: shop}}\n{rest}\n"
        );
        let problems = read("a.yaml", &text).unwrap_err();
        let [problem] = &problems[..] else {
            panic!("{text}: {problems:?}")
        };
        assert_eq!(
            problem.object.as_deref(),
            Some(&*format!("{kind} shop/it")),
            "{text}"
        );
        assert_eq!(
            (&*problem.field, &*problem.message),
            (field, message),
            "{text}"
        );
    }
}

#[test]
fn text_that_does_not_parse_names_line_and_column() {
    for (file, text, field, message) in [
        (
            "a.yaml",
            "kind: Pod\n  name: [\n",
            "line 2 column 7",
            "it is not YAML: mapping values are not allowed in this context at line 2 column 7",
        ),
        (
            "a.yaml",
            "kind: Pod\nname: 'open\n",
            "line 3 column 1",
            "it is not YAML: found unexpected end of stream",
        ),
        (
            "a.json",
            "{\"kind\":\n \"Pod\",}",
            "line 2 column 8",
            "it is not JSON: trailing comma at line 2 column 8",
        ),
    ] {
        let problems = read(file, text).unwrap_err();
        let [problem] = &problems[..] else {
            panic!("{problems:?}")
        };
        assert_eq!(problem.field, field, "{text}");
        assert!(problem.message.starts_with(message), "{}", problem.message);
        assert_eq!(problem.file, Path::new(file));
    }
}

#[test]
fn all_problems_of_a_file_are_told_at_once() {
    let text = "just text\n---\nkind: Pod\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: 1\n---\napiVersion: v1\nkind: List\nitems: 5\n";
    let problems = read("a.yaml", text).unwrap_err();
    let told = problems
        .iter()
        .map(|it| (it.object.as_deref().unwrap(), &*it.field));
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("object 1", ""),
            ("Pod", "apiVersion"),
            ("Pod a", "spec"),
            ("List", "items")
        ]
    );
}

/// Ten levels of ten: ten thousand million nodes, were the aliases followed.
#[test]
fn aliases_that_multiply_are_refused() {
    let mut text = "a0: &a0 [x]\n".to_owned();
    for level in 1..=10 {
        let below = format!("*a{}, ", level - 1).repeat(10);
        text += &format!("a{level}: &a{level} [{below}]\n");
    }
    let problems = read("a.yaml", &text).unwrap_err();
    assert!(
        problems[0].message.contains("repetition limit exceeded"),
        "{problems:?}"
    );
}

#[test]
fn nesting_without_end_is_refused() {
    let problems = read("a.yaml", &"[".repeat(10_000)).unwrap_err();
    assert!(
        problems[0].message.contains("recursion limit exceeded"),
        "{problems:?}"
    );
}
