//! The runtime's table in containerd's configuration, as text to text: nothing but the table changes,
//! comments and order stay.
//!
//! | `version` of the file | read by | table |
//! |---|---|---|
//! | 2 | 1.6, 1.7; 2.x migrates it | `plugins."io.containerd.grpc.v1.cri".containerd.runtimes.NAME` |
//! | 3 | 2.x | `plugins."io.containerd.cri.v1.runtime".containerd.runtimes.NAME` |
//!
//! containerd 1.6 and 1.7 forget their built-in `runc` as soon as a file names any runtime (their TOML decoder
//! replaces maps), so the first runtime of a file of version 2 brings `runc` with it.

use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

/// What containerd calls the runtime.
const TYPE: &str = "io.containerd.wasi.v1";
/// What k3s calls it, having found it under that name.
const K3S_TYPE: &str = "io.containerd.wasmtime.v1";
/// Which annotations of a pod and its containers reach the bundle.
const ANNOTATIONS: &str = "io.containerd.wasi.v1.*";
/// The plugin that has the runtimes, in version 2.
const CRI_2: &str = "io.containerd.grpc.v1.cri";
/// The same in version 3.
const CRI_3: &str = "io.containerd.cri.v1.runtime";

/// The runtime as a node's administrator names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Runtime {
    /// The handler of the `RuntimeClass`.
    pub(crate) name: String,
    /// The shim's binary, where containerd's `PATH` does not lead to it.
    pub(crate) path: Option<String>,
}

/// Why a configuration was left as it is.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TableError {
    /// No TOML.
    #[error("it is not TOML: {0}")]
    Syntax(String),
    /// A version without the tables above.
    #[error(
        "it is of version {0}, and only 2 and 3 are known here; `containerd config migrate` prints it in the newest version"
    )]
    Version(String),
    /// Something else stands where a table belongs.
    #[error("{0} is not a table")]
    NoTable(String),
    /// Somebody else's runtime.
    #[error(
        "the runtime {name} is there already and is {other}; take another --runtime-name, or remove that table"
    )]
    Taken {
        /// The name.
        name: String,
        /// Its `runtime_type`.
        other: String,
    },
    /// An unusual way of writing tables, which the result would not be equal to.
    #[error("it cannot be edited safely; add this by hand:\n{0}")]
    Unsafe(String),
}

impl Runtime {
    /// The configuration with this runtime in it; the same text if it is there already. No file (`None`)
    /// becomes one of version 2, which every containerd from 1.6 on reads.
    ///
    /// # Errors
    ///
    /// [`TableError`] says why the file has to be edited by hand.
    pub(crate) fn add(&self, config: Option<&str>) -> Result<String, TableError> {
        let config = config.unwrap_or_default();
        let mut document = parse(config)?;
        if document.is_empty() {
            document.insert("version", toml_edit::value(2));
        }
        let path = path(&document)?;
        let runtimes = descend(&mut document, &path)?;
        let first = runtimes.is_empty();
        match runtimes.get(&self.name) {
            Some(there) if self.is(there) => return Ok(config.to_owned()),
            Some(there) if type_of(there) != Some(TYPE) => {
                return Err(TableError::Taken {
                    name: self.name.clone(),
                    other: type_of(there)
                        .unwrap_or("without a runtime_type")
                        .to_owned(),
                });
            }
            Some(_) | None => {}
        }
        if first && path[1] == CRI_2 {
            let mut runc = Table::new();
            runc.insert("runtime_type", toml_edit::value("io.containerd.runc.v2"));
            insert(runtimes, "runc", runc);
        }
        // One of an older installation keeps what was added to it.
        match runtimes
            .get_mut(&self.name)
            .and_then(Item::as_table_like_mut)
        {
            Some(there) => {
                for (key, value) in self.table() {
                    there.insert(&key, value);
                }
                if self.path.is_none() {
                    there.remove("runtime_path");
                }
            }
            None => insert(runtimes, &self.name, self.table()),
        }
        let text = document.to_string();
        let understood = parse(&text).ok().is_some_and(|mut again| {
            descend(&mut again, &path)
                .ok()
                .and_then(|runtimes| runtimes.get(&self.name))
                .is_some_and(|there| self.is(there))
        });
        if understood {
            Ok(text)
        } else {
            Err(TableError::Unsafe(self.by_hand(path[1])))
        }
    }

    /// The configuration without this runtime, and without the tables that only it needed; the same text if
    /// it is not there. One that another runtime has under this name stays.
    ///
    /// # Errors
    ///
    /// As [`Runtime::add`].
    pub(crate) fn remove(&self, config: &str) -> Result<String, TableError> {
        let mut document = parse(config)?;
        if document.is_empty() || !is_in(&document, &self.name, &[TYPE])? {
            return Ok(config.to_owned());
        }
        let path = path(&document)?;
        descend(&mut document, &path)?.remove(&self.name);
        prune(document.as_table_mut(), &path);
        Ok(document.to_string())
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.insert("runtime_type", toml_edit::value(TYPE));
        if let Some(path) = &self.path {
            table.insert("runtime_path", toml_edit::value(path));
        }
        for key in ["pod_annotations", "container_annotations"] {
            table.insert(key, toml_edit::value(Array::from_iter([ANNOTATIONS])));
        }
        table
    }

    fn is(&self, there: &Item) -> bool {
        let same = |(key, value): (&str, &Item)| {
            let own = there.get(key);
            own.is_some_and(|own| own.to_string().trim() == value.to_string().trim())
        };
        let path = there.get("runtime_path").and_then(Item::as_str);
        self.table().iter().all(same) && path == self.path.as_deref()
    }

    fn by_hand(&self, plugin: &str) -> String {
        let head = format!("[plugins.\"{plugin}\".containerd.runtimes.{}]", self.name);
        format!("{head}\n{}", self.table())
    }
}

/// Whether containerd's configuration has our runtime under this name, or the one that k3s takes it for.
///
/// # Errors
///
/// [`TableError`] when the configuration cannot be understood.
pub(crate) fn has(config: &str, name: &str) -> Result<bool, TableError> {
    let document = parse(config)?;
    let types = [TYPE, K3S_TYPE];
    Ok(!document.is_empty() && is_in(&document, name, &types)?)
}

/// Whether the file turns the CRI plugin off, as the packages of some distributions do.
#[must_use]
pub(crate) fn disables_cri(config: &str) -> bool {
    let document = parse(config).unwrap_or_default();
    let disabled = document.get("disabled_plugins").and_then(Item::as_array);
    disabled.is_some_and(|plugins| {
        let mut names = plugins.iter().filter_map(Value::as_str);
        names.any(|name| ["cri", CRI_2, CRI_3].contains(&name))
    })
}

fn is_in(document: &DocumentMut, name: &str, types: &[&str]) -> Result<bool, TableError> {
    let mut item = document.as_item();
    for key in path(document)?.into_iter().chain([name]) {
        match item.get(key) {
            Some(below) => item = below,
            None => return Ok(false),
        }
    }
    Ok(type_of(item).is_some_and(|of| types.contains(&of)))
}

fn parse(config: &str) -> Result<DocumentMut, TableError> {
    config
        .parse()
        .map_err(|error: toml_edit::TomlError| TableError::Syntax(error.to_string()))
}

fn path(document: &DocumentMut) -> Result<[&'static str; 4], TableError> {
    let version = match document.get("version") {
        // What containerd takes a file without it for.
        None => Some(1),
        Some(version) => version.as_integer(),
    };
    let plugin = match version {
        Some(2) => CRI_2,
        Some(3) => CRI_3,
        Some(other) => return Err(TableError::Version(other.to_string())),
        None => return Err(TableError::Version("no number".to_owned())),
    };
    Ok(["plugins", plugin, "containerd", "runtimes"])
}

/// The table at `path`; what is missing on the way is made, and not written unless something gets into it.
fn descend<'a>(
    document: &'a mut DocumentMut,
    path: &[&str],
) -> Result<&'a mut dyn TableLike, TableError> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for (depth, key) in path.iter().enumerate() {
        if table.get(key).is_none() {
            let mut below = Table::new();
            below.set_implicit(true);
            insert(table, key, below);
        }
        table = table
            .get_mut(key)
            .and_then(Item::as_table_like_mut)
            .ok_or_else(|| TableError::NoTable(path[..=depth].join(".")))?;
    }
    Ok(table)
}

/// Inserts a table, as a paragraph of its own; into an inline table it goes inline, by `toml_edit`.
fn insert(above: &mut dyn TableLike, key: &str, mut table: Table) {
    table.decor_mut().set_prefix("\n");
    above.insert(key, Item::Table(table));
}

/// Removes what the way to a removed table leaves empty, unless somebody wrote it out.
fn prune(table: &mut Table, path: &[&str]) {
    let [key, rest @ ..] = path else { return };
    if let Some(below) = table.get_mut(key).and_then(Item::as_table_mut) {
        prune(below, rest);
        if below.is_empty() && below.is_implicit() {
            table.remove(key);
        }
    }
}

fn type_of(runtime: &Item) -> Option<&str> {
    runtime.get("runtime_type").and_then(Item::as_str)
}

#[cfg(test)]
mod tests;
