//! The keeper over folders, with other tools at work in them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use super::*;

const LIST: &str =
    "{\n  \"name\": \"net\",\n  \"plugins\": [\n    {\"type\": \"bridge\"}\n  ]\n}\n";
const SINGLE: &str = r#"{"cniVersion": "0.3.1", "name": "net", "type": "bridge"}"#;

struct Bed {
    root: tempfile::TempDir,
    place: Place,
}

impl Bed {
    fn new(given: &[(&str, &str)]) -> Self {
        let root = tempfile::tempdir().unwrap();
        let (conf_dir, bin_dir) = (root.path().join("net.d"), root.path().join("bin"));
        fs::create_dir(&conf_dir).unwrap();
        fs::create_dir(&bin_dir).unwrap();
        fs::write(root.path().join("program"), "#!/bin/true\n").unwrap();
        let place = Place { conf_dir, bin_dir };
        let bed = Self { root, place };
        for (name, text) in given {
            bed.write(name, text);
        }
        bed
    }

    fn settings() -> Settings {
        Settings {
            socket: "/run/isthmus/cni.sock".into(),
            fail_open: false,
            exclude_namespaces: None,
        }
    }

    fn put(&self) -> Looked {
        put(&self.place.conf_dir, &Self::settings()).unwrap()
    }

    fn keeper(&self) -> Arc<Keeper> {
        Keeper::new(
            self.place.clone(),
            Self::settings(),
            self.root.path().join("program"),
        )
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.place.conf_dir.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.place.conf_dir.join(name)).unwrap()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.place.conf_dir).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn has_ours(&self, name: &str) -> bool {
        self.read(name).contains("isthmus/cni.sock")
    }

    /// Waits until it is so; a change is found in milliseconds.
    async fn until(&self, what: &str, so: impl Fn() -> bool) {
        let all = async {
            while !so() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(60), all).await;
        assert!(done.is_ok(), "{what}: {:?}", self.names());
    }
}

#[test]
fn the_first_list_is_edited_and_restored() {
    let bed = Bed::new(&[
        ("20-b.conflist", LIST),
        ("10-a.conflist", LIST),
        ("00-x.txt", ""),
    ]);
    let path = bed.place.conf_dir.join("10-a.conflist");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let looked = bed.put();
    assert_eq!((looked.file.as_ref(), looked.wrote), (Some(&path), true));
    assert_eq!(looked.problems, []);
    assert!(bed.has_ours("10-a.conflist"));
    assert_eq!(bed.read("20-b.conflist"), LIST);
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640);
    assert!(!bed.put().wrote, "it is there");

    assert_eq!(remove(&bed.place).unwrap(), [path]);
    assert_eq!(bed.read("10-a.conflist"), LIST);
    assert_eq!(bed.names(), ["00-x.txt", "10-a.conflist", "20-b.conflist"]);
    assert!(remove(&bed.place).unwrap().is_empty());
}

#[test]
fn a_single_plugin_is_wrapped_and_left_alone() {
    let bed = Bed::new(&[("10-a.conf", SINGLE)]);
    let looked = bed.put();
    assert_eq!(looked.file, Some(bed.place.conf_dir.join(WRAPPER)));
    assert!(bed.has_ours(WRAPPER));
    assert!(!bed.put().wrote);
    // Its tool changes it: so does what wraps it.
    bed.write("10-a.conf", &SINGLE.replace("bridge", "ptp"));
    assert!(bed.put().wrote);
    assert!(bed.read(WRAPPER).contains("\"ptp\""));
    // A list that another network brings goes before.
    bed.write("05-b.conflist", LIST);
    assert!(bed.put().wrote);
    assert_eq!(bed.names(), ["05-b.conflist", "10-a.conf"]);
    fs::remove_file(bed.place.conf_dir.join("05-b.conflist")).unwrap();
    bed.put();
    remove(&bed.place).unwrap();
    assert_eq!(bed.names(), ["10-a.conf"]);
    assert_eq!(bed.read("10-a.conf"), SINGLE.replace("bridge", "ptp"));
}

#[test]
fn a_single_plugin_that_sorts_first_is_a_problem() {
    let bed = Bed::new(&[("00-a.conf", SINGLE)]);
    let looked = bed.put();
    assert_eq!((looked.file, looked.wrote), (None, false));
    assert!(
        looked.problems[0].cure.contains("rename"),
        "{}",
        looked.problems[0]
    );
    assert_eq!(bed.names(), ["00-a.conf"]);
}

#[test]
fn what_cannot_be_read_is_named_and_left_alone() {
    for bad in ["{", "", "[]", r#"{"name": "a", "plugins": []}"#, "\u{0}"] {
        let bed = Bed::new(&[("10-a.conflist", bad), ("20-b.conflist", LIST)]);
        let looked = bed.put();
        let problem = &looked.problems[0];
        assert!(problem.file.ends_with("10-a.conflist"), "{problem}");
        assert_eq!(bed.read("10-a.conflist"), bad);
        assert!(
            bed.has_ours("20-b.conflist"),
            "the runtime may use the next"
        );
    }
}

#[test]
fn without_a_network_it_waits() {
    let bed = Bed::new(&[(WRAPPER, "left over")]);
    let looked = bed.put();
    assert_eq!(looked.file, None);
    assert!(
        looked.problems[0].message.contains("no network"),
        "{}",
        looked.problems[0]
    );
    assert!(bed.names().is_empty());
    fs::remove_dir(&bed.place.conf_dir).unwrap();
    assert_eq!(bed.put().problems.len(), 1);
    assert!(remove(&bed.place).unwrap().is_empty());
}

#[tokio::test]
async fn the_keeper_puts_it_back() {
    let bed = Bed::new(&[]);
    let keeper = bed.keeper();
    let keeping = tokio::spawn(Arc::clone(&keeper).keep());
    let program = bed.place.bin_dir.join(PLUGIN);
    bed.until("the executable is there", || program.exists())
        .await;
    bed.until("it says that it waits", || !keeper.problems().is_empty())
        .await;

    bed.write("10-a.conflist", LIST);
    bed.until("a network comes", || bed.has_ours("10-a.conflist"))
        .await;
    bed.until("it is told", || {
        keeper.problems().is_empty() && keeper.file().is_some()
    })
    .await;

    bed.write("10-a.conflist", LIST);
    bed.until("its tool writes it anew", || bed.has_ours("10-a.conflist"))
        .await;

    bed.write(".new", LIST);
    let new = bed.place.conf_dir.join("05-b.conflist");
    fs::rename(bed.place.conf_dir.join(".new"), &new).unwrap();
    bed.until("another sorts first", || bed.has_ours("05-b.conflist"))
        .await;

    fs::remove_file(&program).unwrap();
    bed.until("the executable comes back", || program.exists())
        .await;
    let mode = fs::metadata(&program).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o755);

    keeping.abort();
    assert!(keeping.await.unwrap_err().is_cancelled());
    assert!(
        bed.has_ours("05-b.conflist"),
        "it stays when the keeper ends"
    );
    assert_eq!(remove(&bed.place).unwrap().len(), 3);
    assert_eq!(bed.read("05-b.conflist"), LIST);
    assert_eq!(bed.read("10-a.conflist"), LIST);
    assert!(!program.exists());
}
