//! `cargo xtask test`: everything that must hold, in one run; or one test by its name.

use anyhow::{Context, Result, ensure};

use crate::command::Run;
use crate::phases::{Counted, Tally};
use crate::{apt, build, cluster, fips, kernels, toolchain};

/// All phases; a failure in one does not keep the next from telling what it knows.
pub(crate) fn all() -> Result<()> {
    crate::require_root()?;
    let mut tally = Tally::default();
    tally.check("formatting", formatting);
    let object = tally.check("kernel programs", build::kernel_programs);
    let with_object = |run: Run| match &object {
        Some(object) => run.env(build::OBJECT, object),
        None => run,
    };
    tally.check("lints", || {
        with_object(build::cargo("clippy --workspace --all-targets --quiet"))
            .words("-- -D warnings")
            .show()
    });
    if object.is_some() {
        tally.check("lints of the kernel programs", kernel_lints);
    }
    tally.tests(
        "unit tests",
        // Root is here: the few unit tests that need it are not left out.
        with_object(build::cargo("test --no-fail-fast")).words("-- --include-ignored"),
    );
    fips::phase(&mut tally);
    let Some(object) = object else {
        return tally.close();
    };
    let ready = tally.check("the agent and the tools of the tests", || {
        apt::ensure_all("the privileged tests", apt::TEST_TOOLS)?;
        build::userspace(&object, false)
    });
    if ready.is_some() {
        // The tests below mostly wait: there is time for another build.
        let ahead = tally.check("building ahead", cluster::Ahead::start);
        let privileged = || privileged().env(build::OBJECT, &object);
        tally.tests_with_second_look("privileged tests", privileged(), |name| {
            privileged().words("-- --exact").arg(name)
        });
        drop(ahead);
        kernels::phases(&mut tally, kernels::CORE);
        cluster::phase(&mut tally);
    }
    tally.close()
}

/// The tests whose names contain `name`, wherever they live: unit tests first, since they
/// need nothing; the privileged ones when no unit test has that name.
pub(crate) fn one(name: &str) -> Result<()> {
    let mut tally = Tally::default();
    let Counted { passed, failed, .. } =
        tally.tests("unit tests", build::cargo("test --no-fail-fast").arg(name));
    if passed + failed > 0 {
        return tally.close();
    }
    crate::require_root()?;
    apt::ensure_all("the privileged tests", apt::TEST_TOOLS)?;
    let object = build::kernel_programs()?;
    build::userspace(&object, false)?;
    let Counted { passed, failed, .. } = tally.tests(
        "privileged tests",
        privileged().env(build::OBJECT, &object).arg(name),
    );
    let found = passed + failed > 0 || cluster::one(&mut tally, name)?;
    ensure!(found, "no test has `{name}` in its name");
    tally.close()
}

fn privileged() -> Run {
    // An error's own text says where it comes from; its backtrace would bury the agents' logs.
    // Those of a cluster have a phase of their own.
    build::cargo("test --package isthmus-tests --lib --bins --test mesh --test intercept_smoke --no-fail-fast")
        .env("RUST_LIB_BACKTRACE", "0")
}

fn formatting() -> Result<()> {
    build_component("fmt", "rustfmt")?;
    Run::new("cargo").words("fmt --all --check").show()?;
    Run::new("cargo")
        .words("fmt --check")
        .folder(&crate::root().join("mesh-ebpf"))
        .show()
}

fn kernel_lints() -> Result<()> {
    let kernel = toolchain::Kernel::choose()?;
    if kernel == toolchain::Kernel::Debian {
        // Its clippy is of another version, with other opinions; the pinned one has no `core`.
        println!("the kernel programs' lints need the pinned toolchain's rust-src: left out here");
        return Ok(());
    }
    kernel
        .cargo("clippy --release --quiet")
        .words("-- -D warnings")
        .folder(&crate::root().join("mesh-ebpf"))
        .show()
}

/// Asks rustup for a component of the pinned toolchain that is missing.
fn build_component(command: &str, component: &str) -> Result<()> {
    if Run::new("cargo").arg(command).arg("--version").succeeds() {
        return Ok(());
    }
    println!("Asking rustup for {component}");
    Run::new("rustup").words("component add").arg(component).output().map(drop).with_context(|| {
        format!("`cargo {command}` is missing; `rustup component add {component}` brings it where rustup has a network")
    })
}
