//! The servers' jars: fetched from Maven Central once per machine, kept outside of version control.

use std::{
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::Command,
};

use crate::{
    StartError,
    process::{run, write},
};

/// How to get Java, for error messages.
pub(crate) const JAVA_REMEDY: &str =
    "`apt-get install default-jdk-headless` (17 or newer; ./test.sh does it), or set JAVA_HOME";

const MAVEN_REMEDY: &str =
    "`apt-get install maven` (./test.sh does it); it fetches the test servers' jars once";

/// What makes up one server.
pub(crate) struct Recipe {
    /// Name of the server; begins its folder's name.
    pub name: &'static str,
    /// The Maven project whose dependencies are the jars.
    pub pom: &'static str,
    /// Other files, by name. Java sources among them are compiled to `classes/`.
    pub files: &'static [(&'static str, &'static str)],
}

impl Recipe {
    /// The folder with `libs/`, `classes/` and the files, made first if it is not there. Blocks. Processes that come at the
    /// same time wait for the first one.
    pub(crate) fn folder(&self) -> Result<PathBuf, StartError> {
        let root = root();
        let mut hasher = DefaultHasher::new();
        (self.pom, self.files).hash(&mut hasher);
        let folder = root.join(format!("{}-{:016x}", self.name, hasher.finish()));
        if folder.is_dir() {
            return Ok(folder);
        }
        fs::create_dir_all(&root).map_err(StartError::io(format!("create {}", root.display())))?;
        let lock = root.join(format!("{}.lock", self.name));
        let doing = || format!("lock {}", lock.display());
        let lock = File::create(&lock).map_err(StartError::io(doing()))?;
        lock.lock().map_err(StartError::io("lock the cache of jars"))?;
        if folder.is_dir() {
            return Ok(folder);
        }
        // Made under another name, so that a half-made folder is never taken for a whole one.
        let draft = root.join(format!("{}.draft", self.name));
        if draft.exists() {
            fs::remove_dir_all(&draft).map_err(StartError::io(format!("remove {}", draft.display())))?;
        }
        self.make(&draft)?;
        fs::rename(&draft, &folder).map_err(StartError::io(format!("rename {}", draft.display())))?;
        Ok(folder)
    }

    fn make(&self, folder: &Path) -> Result<(), StartError> {
        write(&folder.join("pom.xml"), self.pom)?;
        let mut sources = Vec::new();
        for (name, text) in self.files {
            let path = folder.join(name);
            write(&path, text)?;
            if name.ends_with(".java") {
                sources.push(path);
            }
        }
        run(
            Command::new("mvn")
                .args(["-B", "-q", "-f"])
                .arg(folder.join("pom.xml"))
                .args(["dependency:copy-dependencies", "-DincludeScope=runtime"])
                .arg(format!("-DoutputDirectory={}", folder.join("libs").display())),
            MAVEN_REMEDY,
        )?;
        if !sources.is_empty() {
            run(
                Command::new(java_home_program("javac"))
                    .arg("-d")
                    .arg(folder.join("classes"))
                    .arg("-cp")
                    .arg(folder.join("libs/*"))
                    .args(sources),
                JAVA_REMEDY,
            )?;
        }
        Ok(())
    }
}

/// `java` with the class path of a server's folder.
pub(crate) fn java(folder: &Path) -> Command {
    let mut command = Command::new(java_home_program("java"));
    command.arg("-cp").arg(format!(
        "{}:{}",
        folder.join("classes").display(),
        folder.join("libs/*").display()
    ));
    command
}

fn java_home_program(program: &str) -> PathBuf {
    match std::env::var_os("JAVA_HOME") {
        Some(home) if !home.is_empty() => Path::new(&home).join("bin").join(program),
        _ => PathBuf::from(program),
    }
}

/// Where all that is fetched once per machine is kept. May not be there yet.
pub fn root() -> PathBuf {
    match std::env::var_os("POSTHASTE_TEST_CACHE") {
        Some(folder) if !folder.is_empty() => PathBuf::from(folder),
        _ => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/servers"),
    }
}
