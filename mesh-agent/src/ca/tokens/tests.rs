use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn a_token_proves_its_node_until_it_is_revoked() {
    let dir = tempfile::tempdir().unwrap();
    let (file, reader) = (TokenFile::new(dir.path()), TokenReader::new(dir.path()));
    assert_eq!(reader.node_of("isthmus-node-00").unwrap(), None);

    let one = file.create("node-1").unwrap();
    let two = file.create("node-2").unwrap();
    let again = file.create("node-1").unwrap();
    assert_ne!(*one.text, *again.text);
    assert_eq!(
        reader.node_of(&one.text).unwrap().as_deref(),
        Some("node-1")
    );
    assert_eq!(
        reader.node_of(&two.text).unwrap().as_deref(),
        Some("node-2")
    );
    assert_eq!(reader.node_of("").unwrap(), None);
    assert_eq!(reader.node_of(&one.text.to_uppercase()).unwrap(), None);
    assert_eq!(
        reader.node_of(&one.text[..one.text.len() - 1]).unwrap(),
        None
    );

    assert_eq!(file.revoke(&Which::Id(again.id.clone())).unwrap(), 1);
    assert_eq!(reader.node_of(&again.text).unwrap(), None);
    assert!(reader.node_of(&one.text).unwrap().is_some());
    assert_eq!(file.revoke(&Which::Node("node-1".to_owned())).unwrap(), 1);
    assert_eq!(reader.node_of(&one.text).unwrap(), None);
    assert!(reader.node_of(&two.text).unwrap().is_some());
    let nothing = file.revoke(&Which::Node("node-1".to_owned()));
    assert!(matches!(nothing, Err(TokenError::NoSuchToken(..))));
}

#[test]
fn the_file_holds_hashes_and_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let file = TokenFile::new(dir.path());
    let token = file.create("node-1").unwrap();
    let path = dir.path().join(FILE);
    let text = fs::read_to_string(&path).unwrap();
    let secret = token.text.strip_prefix(PREFIX).unwrap();
    assert_eq!(secret.len(), 64);
    assert!(!text.contains(secret), "{text}");
    assert!(!format!("{token:?}").contains(secret));
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let listed = file.list().unwrap();
    assert_eq!(
        (listed[0].id.as_str(), listed[0].node.as_str()),
        (&*token.id, "node-1")
    );
}

#[test]
fn the_hash_is_sha_256() {
    // FIPS 180-4, the example "abc".
    let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(digest("abc"), expected);
}

#[test]
fn a_file_that_others_can_write_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (file, reader) = (TokenFile::new(dir.path()), TokenReader::new(dir.path()));
    let token = file.create("node-1").unwrap();
    fs::set_permissions(dir.path().join(FILE), Permissions::from_mode(0o622)).unwrap();
    let error = reader.node_of(&token.text).unwrap_err().to_string();
    assert!(
        error.contains(FILE) && error.contains("chmod 600"),
        "{error}"
    );
}

#[test]
fn a_damaged_file_is_named_with_the_cure() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(FILE);
    for text in [
        "",
        "{",
        "[{}]",
        r#"[{"id":"","node":"n","created":"","sha256":"","x":1}]"#,
    ] {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let error = TokenReader::new(dir.path()).node_of("token").unwrap_err();
        assert!(matches!(error, TokenError::Malformed { .. }), "{text}");
        assert!(error.to_string().contains(FILE));
    }
}

#[test]
fn only_names_that_a_node_can_have_get_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let long = "n".repeat(254);
    for name in ["", "Node", "node 1", "../node", "node\n", &long] {
        let refused = TokenFile::new(dir.path()).create(name);
        assert!(matches!(refused, Err(TokenError::Node(_))), "{name:?}");
    }
    assert!(TokenFile::new(dir.path()).list().unwrap().is_empty());
}
