use std::fs;

use super::*;
use crate::ca::api::certificate;
use crate::identity::fixtures::TestCa;

fn written(text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.pem");
    fs::write(&path, text).unwrap();
    (dir, path)
}

#[test]
fn tokens_come_without_the_line_end_and_never_as_something_else() {
    let (_dir, path) = written(b"isthmus-node-00ff\n");
    assert_eq!(token(&path).unwrap().as_str(), "isthmus-node-00ff");
    for text in [&b""[..], b"\n", b"two\nlines", b"\xff\xfe", b"a\0b"] {
        let (_dir, path) = written(text);
        let error = token(&path).unwrap_err().to_string();
        assert!(
            error.contains("file.pem") && error.contains("ca token create"),
            "{error}"
        );
    }
}

#[test]
fn roots_are_all_read_or_refused_by_name() {
    let root = certificate(&TestCa::new("cluster.local").bundle().roots()[0]);
    let (_dir, path) = written(format!("{root}{root}").as_bytes());
    assert_eq!(roots(&path).unwrap().len(), 2);
    let broken = certificate(b"not DER");
    for (text, says) in [
        (String::new(), "ca bundle"),
        (format!("{root}{broken}"), "certificate 1 is broken"),
    ] {
        let (_dir, path) = written(text.as_bytes());
        let error = roots(&path).unwrap_err().to_string();
        assert!(
            error.contains("file.pem") && error.contains(says),
            "{error}"
        );
    }
}

#[test]
fn lists_that_cannot_be_read_are_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    for (path, says) in [
        (dir.path().join("absent"), "absent"),
        (written_in(&dir, "empty", ""), "holds no list"),
        (
            written_in(
                &dir,
                "broken",
                "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
            ),
            "list 0",
        ),
    ] {
        let Revocation::Unreadable(why) = lists(&path) else {
            panic!("{path:?} was read");
        };
        assert!(why.contains(says), "{why}");
    }
}

fn written_in(dir: &tempfile::TempDir, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, text).unwrap();
    path
}
