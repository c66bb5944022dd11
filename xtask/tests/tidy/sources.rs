//! What stands in a source file.

use std::path::Path;

use syn::visit::{self, Visit};

use crate::{assert_none, rust_files};

/// A reader holds a file of this length in mind, not a longer one.
const MOST_LINES: usize = 600;

/// What is wrong with one file.
fn faults(path: &Path, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let lines = text.lines().count();
    if lines > MOST_LINES {
        faults.push(format!("{lines} lines: cut it where it has two concepts"));
    }
    let syntax = match syn::parse_file(text) {
        Ok(syntax) => syntax,
        Err(error) => return vec![format!("does not parse: {error}")],
    };
    let has_header = syntax.attrs.iter().any(|attribute| attribute.path().is_ident("doc"));
    // The tests of the module beside: that module's header is theirs.
    let is_tests = path.file_name().is_some_and(|name| name == "tests.rs");
    if !has_header && !is_tests {
        faults.push("has no `//!` header".to_owned());
    }
    let may_be_unsafe = path.file_name().is_some_and(|name| name == "sys.rs");
    let mut finder = Finder { may_be_unsafe, faults };
    finder.visit_file(&syntax);
    finder.faults
}

struct Finder {
    may_be_unsafe: bool,
    faults: Vec<String>,
}

impl Finder {
    fn is_unsafe(&mut self, yes: bool) {
        if yes && !self.may_be_unsafe {
            self.faults.push("has `unsafe`, which belongs in a sys.rs".to_owned());
        }
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("ignore") {
            self.faults.push("has a test that is ignored".to_owned());
        }
        self.is_unsafe(attribute.path().is_ident("unsafe"));
        visit::visit_attribute(self, attribute);
    }

    fn visit_macro(&mut self, called: &'ast syn::Macro) {
        for name in ["todo", "unimplemented", "dbg"] {
            if called.path.is_ident(name) {
                self.faults.push(format!("has a `{name}!`"));
            }
        }
        visit::visit_macro(self, called);
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if variant.ident == "Other" && !variant.fields.is_empty() {
            self.faults.push("has an error `Other`, which says nothing".to_owned());
        }
        visit::visit_variant(self, variant);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.is_unsafe(true);
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.is_unsafe(signature.unsafety.is_some());
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.is_unsafe(item.unsafety.is_some());
        visit::visit_item_impl(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        self.is_unsafe(item.unsafety.is_some());
        visit::visit_item_foreign_mod(self, item);
    }
}

#[test]
fn source_files_keep_the_rules() {
    let mut found = Vec::new();
    for (path, text) in rust_files() {
        found.extend(
            faults(&path, &text).iter().map(|fault| format!("{}: {fault}", path.display())),
        );
    }
    assert_none(&found, "These files do not keep the rules of CONTRIBUTING.md:");
}

#[test]
fn every_rule_finds_what_breaks_it() {
    let header = "//! A module.\n";
    for (text, expected) in [
        ("fn f() {}", "has no `//!` header"),
        ("//! .\nfn f() { unsafe { g() } }", "has `unsafe`, which belongs in a sys.rs"),
        ("//! .\nunsafe impl Send for A {}", "has `unsafe`, which belongs in a sys.rs"),
        ("//! .\n#[unsafe(no_mangle)] fn f() {}", "has `unsafe`, which belongs in a sys.rs"),
        ("//! .\n#[test] #[ignore] fn f() {}", "has a test that is ignored"),
        ("//! .\nfn f() { todo!() }", "has a `todo!`"),
        ("//! .\nenum E { Other(String) }", "has an error `Other`, which says nothing"),
    ] {
        assert_eq!(faults(Path::new("a.rs"), text), [expected], "{text}");
    }
    let long = header.to_owned() + &"fn f() {}\n".repeat(MOST_LINES);
    assert_eq!(faults(Path::new("a.rs"), &long).len(), 1);
    assert!(faults(Path::new("a/sys.rs"), "//! .\nfn f() { unsafe { g() } }").is_empty());
    assert!(faults(Path::new("a.rs"), "//! `unsafe` and todo!()\nfn f() {}").is_empty());
}
