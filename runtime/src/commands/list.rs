//! `list`: every container of this `--root`.

use nix::unistd::{Uid, User};

use crate::cli::{ListArgs, OutputFormat};
use crate::commands::state::LookUpError;
use crate::commands::{Context, print, table};
use crate::state::record::StateView;
use crate::state::store::Entry;

const HEADER: [&str; 6] = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"];

pub(super) fn run(context: &Context, args: &ListArgs) -> Result<(), LookUpError> {
    // The default may not be there yet; one that was named should be.
    if let Some(root) = &context.global.root {
        std::fs::metadata(root).map_err(LookUpError::Root)?;
    }
    // As with runc, one that was asked for by name must be there.
    if context.global.root.is_some() {
        context.store.check_root()?;
    }
    let entries = context.store.list()?;
    if args.quiet {
        let ids: String = entries.iter().map(|entry| format!("{}\n", entry.record.id)).collect();
        return Ok(print(&ids)?);
    }
    let views: Vec<_> = entries.iter().map(view).collect();
    let text = match args.format {
        OutputFormat::Table => render(&views),
        // As runc has it: no containers are `null`.
        OutputFormat::Json if views.is_empty() => "null\n".to_owned(),
        OutputFormat::Json => format!("{}\n", serde_json::to_string(&views)?),
    };
    Ok(print(&text)?)
}

fn view(entry: &Entry) -> StateView<'_> {
    StateView { owner: owner(entry), ..entry.record.view() }
}

fn render(views: &[StateView<'_>]) -> String {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(views.iter().map(|view| {
        [
            view.id.to_owned(),
            view.pid.to_string(),
            view.status.to_string(),
            view.bundle.display().to_string(),
            view.created.to_owned(),
            view.owner.clone(),
        ]
    }));
    table::render(&rows)
}

/// A user's name, or `#` and the number of one without a name.
fn owner(entry: &Entry) -> String {
    let Ok(uid) = entry.owner() else { return String::new() };
    match User::from_uid(Uid::from_raw(uid)) {
        Ok(Some(user)) => user.name,
        Ok(None) | Err(_) => format!("#{uid}"),
    }
}
