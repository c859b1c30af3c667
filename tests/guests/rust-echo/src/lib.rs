//! Echo agent: one final `agent_response` for each `user_input`.
//!
//! It also counts the prompts of each session under the KV key `prompts.<session>`, so that a test
//! can see the store work through the Rust SDK.

use astrid_sdk::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Prompt {
    text: String,
    #[serde(default = "default_session")]
    session_id: String,
}

fn default_session() -> String {
    "default".into()
}

#[derive(Serialize)]
struct Answer<'a> {
    r#type: &'static str,
    text: String,
    is_final: bool,
    session_id: &'a str,
}

#[derive(Default)]
pub struct RustEcho;

#[capsule]
impl RustEcho {
    /// An error here becomes a denial, so a prompt that cannot be counted is not answered.
    #[astrid::interceptor("echo_prompt")]
    fn echo_prompt(&self, prompt: Prompt) -> Result<(), SysError> {
        let key = format!("prompts.{}", prompt.session_id);
        let seen = kv::get_json_opt::<u64>(&key)?.unwrap_or(0) + 1;
        kv::set_json(&key, &seen)?;

        log::info(format!("prompt {seen} of session {}", prompt.session_id));
        ipc::publish_json(
            "agent.v1.response",
            &Answer {
                r#type: "agent_response",
                text: format!("rust: {}", prompt.text),
                is_final: true,
                session_id: &prompt.session_id,
            },
        )
    }
}
