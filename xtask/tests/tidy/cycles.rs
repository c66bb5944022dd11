//! The modules at the top of a crate depend on each other in one direction only.
//!
//! A module is its file and all below it. It depends on another when it names it: by `crate::`,
//! or by enough `super::`. Tests inside a module may look at their neighbours; the crate's root,
//! which names all modules, is no module.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::visit::{self, Visit};

use crate::{assert_none, rust_files};

/// Who names whom.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Where a file's module is in its crate: `["sandbox", "microvm"]` for `sandbox/microvm.rs`.
fn module_path(file: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
        parts.pop();
    }
    parts
}

/// Collects the top modules that one file names.
struct Names {
    /// The module that is being read, inline modules included.
    position: Vec<String>,
    found: BTreeSet<String>,
}

impl Names {
    fn path(&mut self, segments: &[String]) {
        let mut base = match segments.first().map(String::as_str) {
            Some("crate") => Vec::new(),
            Some("self" | "super") => self.position.clone(),
            _ => return,
        };
        for segment in segments {
            match segment.as_str() {
                "crate" | "self" => {}
                "super" => drop(base.pop()),
                name => base.push(name.to_owned()),
            }
        }
        self.found.extend(base.into_iter().next());
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| {
            let mut path = before.to_vec();
            path.push(name.to_string());
            path
        };
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.path(&with(&name.ident)),
            syn::UseTree::Rename(rename) => self.path(&with(&rename.ident)),
            syn::UseTree::Glob(_) => self.path(before),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|item| self.tree(before, item));
            }
        }
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|condition| condition == "test")
    })
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !is_for_tests(&module.attrs) {
            self.position.push(module.ident.to_string());
            visit::visit_item_mod(self, module);
            self.position.pop();
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> =
            path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.path(&segments);
        visit::visit_path(self, path);
    }
}

/// Who names whom at the top of a crate, from its files (paths below `src`).
fn graph<'a>(files: impl Iterator<Item = (&'a Path, &'a str)>) -> Graph {
    let mut graph = Graph::new();
    for (file, text) in files {
        let position = module_path(file);
        let Some(top) = position.first().cloned() else { continue };
        if position.iter().any(|name| name == "tests") {
            continue;
        }
        let mut names = Names { position, found: BTreeSet::new() };
        names.visit_file(&syn::parse_file(text).unwrap());
        graph.entry(top.clone()).or_default().extend(names.found.into_iter().filter(|n| *n != top));
    }
    graph
}

/// A way round, if there is one.
fn cycle(graph: &Graph) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph.keys().find_map(|start| round(graph, start, &mut Vec::new(), &mut done))
}

fn round<'a>(
    graph: &'a Graph,
    module: &'a str,
    way: &mut Vec<&'a str>,
    done: &mut BTreeSet<&'a str>,
) -> Option<Vec<String>> {
    if let Some(start) = way.iter().position(|other| *other == module) {
        return Some(way[start..].iter().map(|&name| name.to_owned()).collect());
    }
    if !done.insert(module) {
        return None;
    }
    way.push(module);
    // A name that is no module is an item of the crate's root.
    let next = graph.get(module).into_iter().flatten().filter(|name| graph.contains_key(*name));
    let found = next.into_iter().find_map(|name| round(graph, name, way, done));
    way.pop();
    found
}

#[test]
fn modules_form_no_cycle() {
    let files = rust_files();
    let crates: BTreeSet<&Path> = files
        .iter()
        .filter_map(|(path, _)| path.ancestors().find(|folder| folder.ends_with("src")))
        .collect();
    let mut found = Vec::new();
    for folder in crates {
        let inside = files
            .iter()
            .filter_map(|(path, text)| Some((path.strip_prefix(folder).ok()?, text.as_str())));
        if let Some(way) = cycle(&graph(inside)) {
            found.push(format!("{}: {}", folder.display(), way.join(" -> ")));
        }
    }
    assert_none(&found, "These modules depend on each other in a circle:");
}

fn cycle_of(files: &[(&str, &str)]) -> Option<Vec<String>> {
    cycle(&graph(files.iter().map(|(path, text)| (Path::new(*path), *text))))
}

#[test]
fn a_cycle_of_three_is_found() {
    let files = [
        ("lib.rs", "mod a; mod b; mod c;"),
        ("a.rs", "use crate::b::{B, other::C};"),
        ("b.rs", "fn f() { let _ = super::c::g(); }"),
        ("c/deep.rs", "impl From<crate::a::A> for u8 {}"),
    ];
    assert_eq!(cycle_of(&files).unwrap(), ["a", "b", "c"]);
}

#[test]
fn a_module_may_name_itself_its_tests_and_the_root_what_they_like() {
    let files = [
        ("lib.rs", "use crate::a::A; use crate::b::B;"),
        ("a.rs", "use self::deep::D; use crate::b::B; use crate::Root;"),
        ("a/deep.rs", "use super::A; use crate::a::A2;"),
        ("b.rs", "#[cfg(test)] mod tests { use crate::a::A; use super::B; }"),
    ];
    assert_eq!(cycle_of(&files), None);
}
