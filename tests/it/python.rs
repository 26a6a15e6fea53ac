//! Tools written in Python, for what they alone can do: fetched once per machine.

use std::{fs, process::Command};

use posthaste_testkit::cache;

/// Runs `module` of the package that `requirement` names, such as `tool==1.2.3`, with the arguments that are added.
pub fn module(requirement: &str, module: &str) -> Command {
    const REMEDY: &str = "apt-get install python3-pip (./test.sh does it)";
    let python = |arguments: &[&str]| {
        let output = Command::new("python3").args(arguments).output();
        let output = output.unwrap_or_else(|error| panic!("python3: {error}: {REMEDY}"));
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "python3 {arguments:?}: {REMEDY}\n{errors}"
        );
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    // Parts of it are compiled for one version of Python.
    let version = python(&["-c", "import sys; print('%d.%d' % sys.version_info[:2])"]);
    let folder = cache::root().join(format!("{requirement}-python{version}"));
    if !folder.is_dir() {
        fs::create_dir_all(cache::root()).unwrap();
        let draft = tempfile::tempdir_in(cache::root()).unwrap();
        let target = draft.path().join("libs");
        let target = target.to_str().unwrap();
        python(&["-m", "pip", "install", "--quiet", "--target", target, requirement]);
        // Another process may have been faster.
        if fs::rename(target, &folder).is_err() {
            assert!(folder.is_dir(), "{} cannot be made", folder.display());
        }
    }
    let mut command = Command::new("python3");
    command.args(["-m", module]).env("PYTHONPATH", folder);
    command
}
