//! `segue api`: what the admin API takes and answers.

use crate::args::ApiDo;
use crate::exit::Exit;
use crate::output;

pub(crate) fn run(what: ApiDo) -> anyhow::Result<Exit> {
    match what {
        ApiDo::Openapi => {
            let document = segue_controller::api::document();
            output::line(&serde_json::to_string_pretty(&document)?);
        }
    }
    Ok(Exit::Ok)
}
