//! Parts of the cluster go away and come back.

use anyhow::Result;
use isthmus_tests::cluster::{Apps, Cluster};

fn sleeper() -> Apps {
    Apps::new().idle("busybox", "sleeper", "n2")
}

#[test]
fn the_api_server_goes_and_comes_back() -> Result<()> {
    let cluster = Cluster::alone()?;
    let namespace = cluster.namespace("away")?;
    namespace.run(&sleeper())?;
    cluster.stop("api-server")?;
    let refused = cluster.kubectl(&["get", "nodes"]);
    cluster.start("api-server")?;
    assert!(refused.is_err(), "it answered: {refused:?}");
    namespace.exec("sleeper", &["true"])?;
    Ok(())
}

#[test]
fn a_node_reboots_with_its_pods() -> Result<()> {
    let cluster = Cluster::alone()?;
    let namespace = cluster.namespace("reboot")?;
    let [_, node] = cluster.nodes();
    namespace.run(&sleeper())?;
    let pin = "/sys/fs/bpf/of-before";
    node.run(&["mkdir", pin])?;
    cluster.reboot(&node)?;
    assert!(
        !node.finish(&["test", "-e", pin])?.status.success(),
        "what was pinned outlived the node"
    );
    let restarts = namespace.watch("pod/sleeper", "it has been started again", |pod| {
        let status = &pod["status"]["containerStatuses"][0];
        let restarts = status["restartCount"].as_u64()?;
        (restarts > 0 && status["ready"] == true).then_some(restarts)
    })?;
    assert_eq!(restarts, 1);
    namespace.exec("sleeper", &["true"])?;
    Ok(())
}
