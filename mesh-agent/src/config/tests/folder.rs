//! The source as the agent uses it: what wakes it, and what it then says.

use std::fs;
use std::time::Duration;

use tokio::time::timeout;

use super::super::{ConfigError, FolderSource, Loaded};
use super::{Folder, link, pod};

/// For a test that would otherwise hang: long enough for the slowest machine.
const DEADLINE: Duration = Duration::from_secs(30);

fn open(folder: &Folder) -> FolderSource {
    FolderSource::open(&folder.dir, "node-a").unwrap()
}

async fn next(source: &mut FolderSource) -> Loaded {
    timeout(DEADLINE, source.changed())
        .await
        .expect("no change was told")
}

/// Waits for the generation of which `seen` is true; an earlier one may be told too,
/// when a change consists of several steps.
async fn until(source: &mut FolderSource, seen: impl Fn(&Loaded) -> bool) -> Loaded {
    let search = async {
        loop {
            let loaded = source.changed().await;
            if seen(&loaded) {
                return loaded;
            }
        }
    };
    timeout(DEADLINE, search)
        .await
        .expect("the change was never told")
}

fn ips(loaded: &Loaded) -> Vec<String> {
    let workloads = loaded.world.workloads();
    workloads
        .flat_map(|it| &it.addresses)
        .map(ToString::to_string)
        .collect()
}

fn has(ip: &str) -> impl Fn(&Loaded) -> bool {
    let ip = ip.parse().unwrap();
    move |loaded| loaded.world.workload_by_ip(ip).is_some()
}

#[tokio::test]
async fn files_added_changed_and_removed_are_told() {
    let folder = Folder::with(&[("a.yaml", &pod("a", "10.1.0.1"))]);
    let mut source = open(&folder);
    let first = next(&mut source).await;
    assert_eq!(ips(&first), ["10.1.0.1"]);
    assert_eq!(first.problems, []);
    assert!(first.complete);

    folder.write("b.yaml", &pod("b", "10.1.0.2"));
    assert_eq!(
        ips(&until(&mut source, has("10.1.0.2")).await),
        ["10.1.0.1", "10.1.0.2"]
    );
    folder.replace("b.yaml", &pod("b", "10.1.0.3"));
    assert_eq!(
        ips(&until(&mut source, has("10.1.0.3")).await),
        ["10.1.0.1", "10.1.0.3"]
    );
    folder.remove("a.yaml");
    assert_eq!(ips(&next(&mut source).await), ["10.1.0.3"]);
    let moved = folder.beside("away.yaml");
    fs::rename(folder.path("b.yaml"), &moved).unwrap();
    assert_eq!(ips(&next(&mut source).await), [""; 0]);
    fs::hard_link(&moved, folder.path("c.yaml")).unwrap();
    assert_eq!(ips(&next(&mut source).await), ["10.1.0.3"]);
}

#[tokio::test]
async fn a_bad_file_is_told_and_what_was_good_stays() {
    let folder = Folder::with(&[("a.yaml", &pod("a", "10.1.0.1"))]);
    let mut source = open(&folder);
    next(&mut source).await;
    folder.replace("a.yaml", "kind: [");
    let bad = next(&mut source).await;
    assert_eq!(ips(&bad), ["10.1.0.1"]);
    assert!(bad.complete);
    let [problem] = &bad.problems[..] else {
        panic!("{:?}", bad.problems)
    };
    assert_eq!(problem.file, folder.path("a.yaml"));
    assert_eq!(problem.field, "line 2 column 1");

    // Another agent, started now, has nothing to go by.
    let fresh = next(&mut open(&folder)).await;
    assert_eq!(ips(&fresh), [""; 0]);
    assert!(!fresh.complete);
    assert_eq!(fresh.problems, bad.problems);
}

#[tokio::test]
async fn problems_of_all_files_and_objects_come_at_once_and_in_order() {
    let folder = Folder::with(&[
        ("d.yaml", "kind: ["),
        ("a.yaml", &pod("a", "10.1.0.1")),
        ("b.yaml", &pod("b", "10.1.0.1")),
        ("c.yaml", &pod("c", "10.1.0")),
    ]);
    let loaded = next(&mut open(&folder)).await;
    let told = loaded.problems.iter().map(|it| {
        let file = it.file.file_name().unwrap().to_str().unwrap();
        (file, &*it.field)
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [
            ("a.yaml", "status.podIPs"),
            ("c.yaml", "status.podIP"),
            ("d.yaml", "line 2 column 1")
        ]
    );
}

#[tokio::test]
async fn a_mounted_config_map_is_followed() {
    let folder = Folder::new();
    let version = |name: &str, ip: &str| {
        fs::create_dir(folder.path(name)).unwrap();
        fs::write(folder.path(name).join("mesh.yaml"), pod("a", ip)).unwrap();
    };
    version("..2026_01", "10.1.0.1");
    link("..2026_01", folder.path("..data"));
    link("..data/mesh.yaml", folder.path("mesh.yaml"));
    let mut source = open(&folder);
    assert_eq!(ips(&next(&mut source).await), ["10.1.0.1"]);

    version("..2026_02", "10.1.0.2");
    link("..2026_02", folder.path("..data_tmp"));
    fs::rename(folder.path("..data_tmp"), folder.path("..data")).unwrap();
    assert_eq!(ips(&next(&mut source).await), ["10.1.0.2"]);
}

#[tokio::test]
async fn a_directory_that_is_replaced_is_followed() {
    let folder = Folder::with(&[("a.yaml", &pod("a", "10.1.0.1"))]);
    let mut source = open(&folder);
    next(&mut source).await;
    let beside = folder.beside("new.d");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("a.yaml"), pod("a", "10.1.0.2")).unwrap();
    fs::rename(&folder.dir, folder.beside("old.d")).unwrap();
    fs::rename(&beside, &folder.dir).unwrap();
    until(&mut source, has("10.1.0.2")).await;
    // And it is the new one that is watched.
    folder.write("b.yaml", &pod("b", "10.1.0.3"));
    until(&mut source, has("10.1.0.3")).await;
}

#[tokio::test]
async fn a_directory_that_is_a_link_is_followed_to_its_new_target() {
    let folder = Folder::with(&[("a.yaml", &pod("a", "10.1.0.1"))]);
    let second = Folder::with(&[("a.yaml", &pod("a", "10.1.0.2"))]);
    let at = folder.beside("current");
    link(&folder.dir, &at);
    let mut source = FolderSource::open(&at, "node-a").unwrap();
    assert_eq!(ips(&next(&mut source).await), ["10.1.0.1"]);
    folder.write("a.yaml", &pod("a", "10.1.0.3"));
    until(&mut source, has("10.1.0.3")).await;

    let new = folder.beside("current.new");
    link(&second.dir, &new);
    fs::rename(&new, &at).unwrap();
    until(&mut source, has("10.1.0.2")).await;
    second.write("a.yaml", &pod("a", "10.1.0.4"));
    until(&mut source, has("10.1.0.4")).await;
}

#[tokio::test]
async fn a_link_whose_target_is_made_anew_is_followed() {
    let folder = Folder::with(&[("a.yaml", &pod("a", "10.1.0.1"))]);
    let elsewhere = Folder::new();
    let at = elsewhere.beside("current");
    link(&folder.dir, &at);
    let mut source = FolderSource::open(&at, "node-a").unwrap();
    next(&mut source).await;
    // Beside the link nothing happens: only the directory itself can tell.
    fs::remove_dir_all(&folder.dir).unwrap();
    until(&mut source, |loaded| !loaded.problems.is_empty()).await;
    fs::create_dir(&folder.dir).unwrap();
    folder.write("a.yaml", &pod("a", "10.1.0.2"));
    until(&mut source, has("10.1.0.2")).await;
}

#[tokio::test]
async fn a_directory_that_goes_leaves_everything_and_is_found_again() {
    let folder = Folder::with(&[("a.yaml", &pod("a", "10.1.0.1"))]);
    let mut source = open(&folder);
    next(&mut source).await;
    fs::rename(&folder.dir, folder.beside("away")).unwrap();
    let gone = next(&mut source).await;
    assert_eq!(ips(&gone), ["10.1.0.1"]);
    assert!(gone.complete);
    assert!(
        gone.problems[0]
            .message
            .starts_with("the directory cannot be read")
    );

    fs::create_dir(&folder.dir).unwrap();
    folder.write("b.yaml", &pod("b", "10.1.0.2"));
    let back = until(&mut source, has("10.1.0.2")).await;
    assert_eq!(ips(&back), ["10.1.0.2"]);
    assert_eq!(back.problems, []);
}

#[tokio::test]
async fn a_directory_is_found_again_when_its_parent_was_gone_too() {
    let folder = Folder::new();
    let dir = folder.dir.join("inner");
    fs::create_dir(&dir).unwrap();
    let mut source = FolderSource::open(&dir, "node-a").unwrap();
    next(&mut source).await;
    fs::remove_dir_all(&folder.dir).unwrap();
    until(&mut source, |loaded| !loaded.problems.is_empty()).await;
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.yaml"), pod("a", "10.1.0.1")).unwrap();
    until(&mut source, has("10.1.0.1")).await;
}

/// The change itself is lost with the queue's end, so only the overflow can tell.
#[tokio::test]
async fn a_change_lost_in_a_queue_that_overflows_is_found() {
    let folder = Folder::with(&[("a.yaml", &pod("a", "10.1.0.1"))]);
    let mut source = open(&folder);
    next(&mut source).await;
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    folder.write("one.txt", "");
    let names = [folder.path("one.txt"), folder.path("two.txt")];
    for i in 0..=limit / 2 {
        // Two events each, on names that concern nobody.
        fs::rename(&names[i % 2], &names[1 - i % 2]).unwrap();
    }
    folder.replace("a.yaml", &pod("a", "10.1.0.2"));
    until(&mut source, has("10.1.0.2")).await;
}

#[tokio::test]
async fn dropping_the_future_loses_no_change() {
    let folder = Folder::with(&[("a.yaml", &pod("a", "10.1.0.1"))]);
    let mut source = open(&folder);
    for i in 1..=20 {
        let ip = format!("10.1.0.{i}");
        folder.replace("a.yaml", &pod("a", &ip));
        let seen = has(&ip);
        let search = async {
            loop {
                // Given up again and again, at whatever point it has reached.
                let attempt = timeout(Duration::from_micros(700), source.changed()).await;
                if attempt.is_ok_and(|loaded| seen(&loaded)) {
                    return;
                }
            }
        };
        timeout(DEADLINE, search)
            .await
            .expect("the change was lost");
    }
}

#[tokio::test]
async fn a_folder_that_is_not_there_is_an_error() {
    let folder = Folder::with(&[("a.yaml", "")]);
    for path in [folder.beside("none"), folder.path("a.yaml")] {
        let error = FolderSource::open(&path, "node-a").err().unwrap();
        assert!(
            matches!(&error, ConfigError::Directory { dir, .. } if *dir == path),
            "{error}"
        );
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
}
