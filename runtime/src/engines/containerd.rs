//! containerd's `config.toml`, versions 2 (containerd 1.x and 2.x) and 3 (2.x):
//! `[plugins.PLUGIN.containerd.runtimes.NAME]`, for CRI. `ctr` needs none of it.
//!
//! Where a file of version 2 has any runtime, containerd 1.x forgets its own, `runc`, which is the
//! default: its CRI service does not start then. So the first runtime brings `runc` along.

use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use super::{EditError, Entry, RuntimeName, parse_toml};

const SHIM: &str = "io.containerd.cofferdam.v2";
const TYPE: &str = "runtime_type";
const RUNC: (&str, &str) = ("runc", "io.containerd.runc.v2");
/// Above `runc`'s table; tells the one that we brought along.
const WHY_RUNC: &str = "# Beside another runtime containerd 1.x knows runc only if it is named.";
const VERSION: &str = "version";
const DEFAULT: &str = "default_runtime_name";

pub(super) fn find(text: &str, name: &RuntimeName) -> Result<Option<Entry>, EditError> {
    let document = parse_toml(text)?;
    let path = path(&document)?;
    let Some(runtimes) = table(&document, &path)? else { return Ok(None) };
    let Some(found) = runtimes.get(name.as_str()) else { return Ok(None) };
    match found.get(TYPE).and_then(Item::as_str) {
        Some(SHIM) => {
            Ok(Some(Entry { name: name.clone(), program: SHIM.to_owned(), arguments: vec![] }))
        }
        other => Err(EditError::Foreign {
            key: format!("{}.{name}", shown(&path)),
            found: other.unwrap_or("without a runtime_type").to_owned(),
        }),
    }
}

pub(super) fn add(text: &str, entry: &Entry) -> Result<String, EditError> {
    refuse_arguments(entry)?;
    let name = entry.name.as_str();
    let is_there = find(text, &entry.name)?.is_some();
    let mut document = parse_toml(text)?;
    let path = path(&document)?;
    let is_alone =
        table(&document, &path)?.is_none_or(|runtimes| runtimes.iter().all(|(key, _)| key == name));
    if is_there && !is_alone {
        return Ok(text.to_owned());
    }
    if document.is_empty() {
        document.insert(VERSION, value(2));
    }
    let runtimes = table_to_edit(&mut document, &path)?;
    if is_alone {
        runtimes.insert(RUNC.0, runtime(RUNC.1, &format!("\n{WHY_RUNC}\n")));
    }
    if !is_there {
        runtimes.insert(name, runtime(SHIM, "\n"));
    }
    Ok(with_line_ends_of(text, &document))
}

pub(super) fn remove(text: &str, name: &RuntimeName) -> Result<String, EditError> {
    let mut document = parse_toml(text)?;
    let path = path(&document)?;
    let settings = &path[..path.len() - 1];
    let default = table(&document, settings)?.and_then(|table| table.get(DEFAULT));
    if default.and_then(Item::as_str) == Some(name.as_str()) {
        let key = format!("{}.{DEFAULT}", shown(settings));
        return Err(EditError::IsDefault { key, name: name.clone() });
    }
    let runtimes = table_to_edit(&mut document, &path)?;
    runtimes.remove(name.as_str());
    if runtimes.len() == 1 && runtimes.get(RUNC.0).is_some_and(came_along) {
        runtimes.remove(RUNC.0);
    }
    Ok(with_line_ends_of(text, &document))
}

fn refuse_arguments(entry: &Entry) -> Result<(), EditError> {
    if entry.arguments.is_empty() {
        return Ok(());
    }
    Err(EditError::Arguments {
        engine: "containerd",
        arguments: entry.arguments.clone(),
        remedy: "/etc/cofferdam/config.toml says it, or a file that `options.ConfigPath` names",
    })
}

/// Where the runtimes are. A file that says nothing at all is of any version.
fn path(document: &DocumentMut) -> Result<[&'static str; 4], EditError> {
    let plugin = match document.get(VERSION) {
        None if document.is_empty() => "io.containerd.grpc.v1.cri",
        None => return Err(EditError::Version("1 (it does not say which)".to_owned())),
        Some(version) => match version.as_integer() {
            Some(2) => "io.containerd.grpc.v1.cri",
            Some(3) => "io.containerd.cri.v1.runtime",
            _ => return Err(EditError::Version(version.to_string().trim().to_owned())),
        },
    };
    Ok(["plugins", plugin, "containerd", "runtimes"])
}

fn shown(path: &[&str]) -> String {
    let quoted = |key: &&str| if key.contains('.') { format!("{key:?}") } else { (*key).into() };
    path.iter().map(quoted).collect::<Vec<String>>().join(".")
}

fn not_a_table(path: &[&str], depth: usize) -> EditError {
    EditError::Type { key: shown(&path[..=depth]), expected: "a table" }
}

/// The table at this path, if there is one.
fn table<'a>(
    document: &'a DocumentMut,
    path: &[&str],
) -> Result<Option<&'a dyn TableLike>, EditError> {
    let mut table: &dyn TableLike = document.as_table();
    for (depth, key) in path.iter().enumerate() {
        let Some(item) = table.get(key) else { return Ok(None) };
        table = item.as_table_like().ok_or_else(|| not_a_table(path, depth))?;
    }
    Ok(Some(table))
}

/// The same, made where it is missing. Tables on the way get no header of their own.
fn table_to_edit<'a>(
    document: &'a mut DocumentMut,
    path: &[&str],
) -> Result<&'a mut dyn TableLike, EditError> {
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for (depth, key) in path.iter().enumerate() {
        let item = table.entry(key).or_insert_with(|| {
            let mut made = Table::new();
            made.set_implicit(true);
            Item::Table(made)
        });
        table = item.as_table_like_mut().ok_or_else(|| not_a_table(path, depth))?;
    }
    Ok(table)
}

/// A runtime's table, at the end of the file.
fn runtime(kind: &str, prefix: &str) -> Item {
    let mut table = Table::new();
    table.insert(TYPE, value(kind));
    table.decor_mut().set_prefix(prefix);
    table.set_position(Some(isize::MAX));
    Item::Table(table)
}

/// As we wrote it, and nothing added since.
fn came_along(runc: &Item) -> bool {
    let Some(table) = runc.as_table() else { return false };
    let above = table.decor().prefix().and_then(|prefix| prefix.as_str());
    table.len() == 1 && above.is_some_and(|above| above.contains(WHY_RUNC))
}

/// `toml_edit` ends every line as Unix does.
fn with_line_ends_of(text: &str, document: &DocumentMut) -> String {
    let edited = document.to_string();
    if text.contains("\r\n") { edited.replace("\r\n", "\n").replace('\n', "\r\n") } else { edited }
}
