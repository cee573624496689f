//! Which files are read, when they are read again, and what stays of a file that
//! has become bad.

use std::fs::{self, File};
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::super::cache::{Cache, MAX_FILE_BYTES, is_config_name};
use super::{Folder, link, pod};

fn cache(folder: &Folder) -> Cache {
    Cache::new(folder.dir.clone())
}

fn pods(cache: &Cache) -> Vec<String> {
    let pods = cache.objects().flat_map(|objects| &objects.pods);
    pods.map(|pod| {
        let ip = pod.object.addresses[0];
        format!("{} {ip}", pod.object.name)
    })
    .collect()
}

fn problems(cache: &Cache) -> Vec<String> {
    let problems = cache.problems();
    problems
        .map(|it| {
            let file = it.file.file_name().unwrap_or_default().display();
            format!("{file}: {}: {}", it.field, it.message)
        })
        .collect()
}

#[test]
fn names() {
    for (name, expected) in [
        ("a.yaml", true),
        ("a.yml", true),
        ("a.json", true),
        ("a.b.yaml", true),
        ("a.txt", false),
        ("yaml", false),
        (".yaml", false),
        (".a.yaml", false),
        (".#a.yaml", false),
        ("#a.yaml#", false),
        ("a.yaml~", false),
        ("a.yaml.swp", false),
        ("a.yaml.bak", false),
        ("..data", false),
    ] {
        assert_eq!(is_config_name(name.as_ref()), expected, "{name}");
    }
}

#[test]
fn of_five_thousand_files_only_the_changed_one_is_parsed_again() {
    let folder = Folder::new();
    for i in 0..5000 {
        let ip = format!("10.1.{}.{}", i / 250, 1 + i % 250);
        folder.write(&format!("pod-{i}.yaml"), &pod(&format!("pod-{i}"), &ip));
    }
    let mut cache = cache(&folder);
    let first = cache.refresh();
    assert_eq!((first.different, first.parsed), (true, 5000));
    let nothing = cache.refresh();
    assert_eq!((nothing.different, nothing.parsed), (false, 0));
    folder.write("pod-77.yaml", &pod("pod-77", "10.2.0.1"));
    let one = cache.refresh();
    assert_eq!((one.different, one.parsed), (true, 1));
    assert!(pods(&cache).contains(&"pod-77 10.2.0.1".to_owned()));
    assert_eq!(pods(&cache).len(), 5000);
}

#[test]
fn contents_decide_and_not_the_timestamp() {
    let folder = Folder::with(&[("a.yaml", &pod("a", "10.1.0.2"))]);
    let mut cache = cache(&folder);
    let modified = fs::metadata(folder.path("a.yaml"))
        .unwrap()
        .modified()
        .unwrap();
    assert!(cache.refresh().different);
    // The same again is no change; another text of the same length and time is one.
    folder.replace("a.yaml", &pod("a", "10.1.0.2"));
    assert!(!cache.refresh().different);
    folder.write("a.yaml", &pod("a", "10.1.0.3"));
    let file = File::options()
        .write(true)
        .open(folder.path("a.yaml"))
        .unwrap();
    file.set_modified(modified).unwrap();
    assert!(cache.refresh().different);
    assert_eq!(pods(&cache), ["a 10.1.0.3"]);
}

#[test]
fn a_file_that_gets_bad_keeps_all_of_its_last_good_version() {
    let good = pod("a", "10.1.0.2") + "---\n" + &pod("b", "10.1.0.3");
    let folder = Folder::with(&[("a.yaml", &good), ("z.yaml", &pod("z", "10.1.0.9"))]);
    let mut cache = cache(&folder);
    cache.refresh();
    // The second object is bad; the new form of the first does not count either.
    folder.write(
        "a.yaml",
        &good
            .replace("10.1.0.2", "10.1.0.7")
            .replace("ip: 10.1.0.3", "ip: [")
            .replace("podIP: 10.1.0.3", "podIP: 3"),
    );
    assert!(cache.refresh().different);
    assert_eq!(pods(&cache), ["a 10.1.0.2", "b 10.1.0.3", "z 10.1.0.9"]);
    assert_eq!(
        problems(&cache),
        ["a.yaml: status.podIP: invalid type: integer `3`, expected a string"]
    );
    assert!(cache.is_complete());
    // Good again, even as the very text it was: the problem goes.
    folder.write("a.yaml", &good);
    assert!(cache.refresh().different);
    assert_eq!(problems(&cache), [""; 0]);
    // Deleted, it takes its objects along.
    folder.remove("a.yaml");
    assert!(cache.refresh().different);
    assert_eq!(pods(&cache), ["z 10.1.0.9"]);
}

#[test]
fn a_file_that_never_was_good_leaves_the_reading_incomplete() {
    let folder = Folder::with(&[("a.yaml", "kind: ["), ("z.yaml", &pod("z", "10.1.0.9"))]);
    let mut cache = cache(&folder);
    assert!(!cache.is_complete());
    cache.refresh();
    assert_eq!(pods(&cache), ["z 10.1.0.9"]);
    assert!(!cache.is_complete());
    folder.remove("a.yaml");
    cache.refresh();
    assert!(cache.is_complete());
}

#[test]
fn the_policies_that_a_bad_file_may_hold_are_feared_until_it_is_good() {
    let policy = |kind: &str, spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: a, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let bad_pod = "---\napiVersion: v1\nkind: Pod\nmetadata: []\n";
    for (text, expected) in [
        ("kind: [".to_owned(), vec![]),
        (
            "kind: PeerAuthentication\nspec: [".to_owned(),
            vec!["PeerAuthentication of any for all"],
        ),
        (
            policy("PeerAuthentication", "{mtls: {mode: strict}}"),
            vec!["PeerAuthentication of shop for all"],
        ),
        (
            policy("AuthorizationPolicy", "{acton: DENY}"),
            vec!["AuthorizationPolicy of shop for all"],
        ),
        (
            policy(
                "AuthorizationPolicy",
                "{acton: DENY, selector: {matchLabels: {app: web}}}",
            ),
            vec!["AuthorizationPolicy of shop for {\"app\": \"web\"}"],
        ),
        (
            policy("AuthorizationPolicy", "{action: AUDIT, rule: []}"),
            vec![],
        ),
        (
            policy("AuthorizationPolicy", "{acton: DENY}")
                .replace("shop}", "shop, annotations: {istio.io/dry-run: t}}"),
            vec![],
        ),
        // For gateways alone, and for a Service too.
        (
            policy(
                "AuthorizationPolicy",
                "{acton: DENY, targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: a}]}",
            ),
            vec![],
        ),
        (
            policy(
                "AuthorizationPolicy",
                "{acton: DENY, targetRef: {kind: Service, name: a}}",
            ),
            vec!["AuthorizationPolicy of shop for all"],
        ),
        (
            policy(
                "AuthorizationPolicy",
                "{acton: DENY, selector: {}, targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: a}]}",
            ),
            vec!["AuthorizationPolicy of shop for {}"],
        ),
        // A good policy in a file that is rejected for another object's sake.
        (
            policy("AuthorizationPolicy", "{}") + bad_pod,
            vec!["AuthorizationPolicy of shop for all"],
        ),
    ] {
        let folder = Folder::with(&[("a.yaml", &text)]);
        let mut cache = cache(&folder);
        cache.refresh();
        assert_eq!(feared(&cache), expected, "{text}");
        folder.write("a.yaml", &pod("a", "10.1.0.2"));
        cache.refresh();
        assert!(feared(&cache).is_empty(), "{text}");
        // From now on there is a last good version, which knows of no policy.
        folder.write("a.yaml", &text);
        cache.refresh();
        assert!(feared(&cache).is_empty(), "{text}");
    }
}

fn feared(cache: &Cache) -> Vec<String> {
    let unread = cache.objects().flat_map(|objects| &objects.unread_policies);
    let unread = unread.map(|unread| {
        let namespace = unread.object.namespace.as_deref().unwrap_or("any");
        let selector = unread.object.selector.as_ref();
        let selector = selector.map_or("all".to_owned(), |it| format!("{:?}", it.match_labels));
        format!("{:?} of {namespace} for {selector}", unread.object.kind)
    });
    unread.collect()
}

#[test]
fn what_is_no_readable_file_is_a_problem_and_costs_nothing() {
    let folder = Folder::with(&[("good.yaml", &pod("a", "10.1.0.2"))]);
    let big = File::create(folder.path("big.yaml")).unwrap();
    big.set_len(MAX_FILE_BYTES + 1).unwrap();
    mkfifo(&folder.path("fifo.yaml"), Mode::S_IRWXU).unwrap();
    link("nowhere", folder.path("link.yaml"));
    fs::write(folder.path("latin.yaml"), b"# one\n# caf\xe9\n").unwrap();
    fs::create_dir(folder.path("directory.yaml")).unwrap();
    let mut cache = cache(&folder);
    cache.refresh();
    assert_eq!(
        problems(&cache),
        [
            "big.yaml: : it cannot be read: it is longer than 16 MiB",
            "fifo.yaml: : it cannot be read: it is not a regular file",
            "latin.yaml: line 2: it is not UTF-8 text",
            "link.yaml: : it cannot be read: No such file or directory (os error 2)",
        ]
    );
    assert_eq!(pods(&cache), ["a 10.1.0.2"]);
    assert!(!cache.is_complete());
    assert!(!cache.refresh().different, "the same problems are no news");
}

#[test]
fn a_file_of_the_greatest_length_is_read() {
    let folder = Folder::new();
    let mut text = pod("a", "10.1.0.2");
    let padding = usize::try_from(MAX_FILE_BYTES).unwrap() - text.len();
    text += &"#".repeat(padding);
    folder.write("a.yaml", &text);
    let mut cache = cache(&folder);
    cache.refresh();
    assert_eq!(problems(&cache), [""; 0]);
    assert_eq!(pods(&cache), ["a 10.1.0.2"]);
}

#[test]
fn without_the_directory_everything_stays() {
    let folder = Folder::with(&[("a.yaml", &pod("a", "10.1.0.2"))]);
    let mut cache = cache(&folder);
    cache.refresh();
    fs::rename(&folder.dir, folder.beside("away")).unwrap();
    assert!(cache.refresh().different);
    assert!(!cache.refresh().different);
    assert_eq!(pods(&cache), ["a 10.1.0.2"]);
    let [problem] = &problems(&cache)[..] else {
        panic!("{:?}", problems(&cache))
    };
    assert!(
        problem.contains("the directory cannot be read"),
        "{problem}"
    );
    fs::rename(folder.beside("away"), &folder.dir).unwrap();
    assert!(cache.refresh().different);
    assert_eq!(problems(&cache), [""; 0]);
    assert!(Path::new(&folder.dir).is_dir());
}
