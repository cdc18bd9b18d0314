//! `roost-api ops …`: who may work at the dashboard. Whoever may reach the database may do everything; the audit log
//! names them as `cli:<user>`.

use std::io::IsTerminal;

use anyhow::Context;
use clap::{Args, Subcommand};
use roost_shared::db::Db;
use roost_shared::operators::accounts::{self, Account};
use roost_shared::operators::audit::checks;
use roost_shared::operators::{self, NewOperator, NewPassword, Role, SHORTEST_PASSWORD};
use roost_shared::users::Passwords;

#[derive(Debug, Subcommand)]
pub(super) enum OpsCommand {
    /// Make an operator who may do everything; the password is asked for, or is the first line of standard input
    CreateAdmin(Whom),
    /// Make an operator with a role
    Create(WhomAs),
    /// Print the operators, one a line
    List,
    /// Keep an operator out: their sessions end at once. The last active admin stays
    Disable(Whom),
    /// Let a disabled operator sign in again
    Enable(Whom),
    /// Give an operator another role: their sessions end, and the last active admin stays one
    SetRole(WhomAs),
    /// Give an operator another password, asked for as with create-admin: their sessions end
    ResetPassword(Whom),
    /// Forget an operator's authenticator, which is lost: they sign in without a code until they set up another
    ResetTotp(Whom),
    /// Compute the audit log from its beginning and take its seal off, so that it is sealed anew within ten minutes: for when
    /// the JWT_SECRET that sealed it is gone. Refused if the log is not whole
    UnsealAudit {
        /// Why, for the log
        #[arg(long)]
        reason: String,
    },
}

#[derive(Args, Debug)]
pub(super) struct Whom {
    /// E-mail address to sign in with
    #[arg(long)]
    email: String,
}

#[derive(Args, Debug)]
pub(super) struct WhomAs {
    /// E-mail address to sign in with
    #[arg(long)]
    email: String,
    /// What they may do
    #[arg(long, value_enum)]
    role: Role,
}

impl OpsCommand {
    /// Does it and says so.
    ///
    /// # Errors
    /// It is refused, or Postgres could not be reached.
    pub(super) async fn run(self, db: &Db) -> anyhow::Result<()> {
        match self {
            Self::CreateAdmin(Whom { email }) => create(db, &email, Role::Admin).await,
            Self::Create(WhomAs { email, role }) => create(db, &email, role).await,
            Self::List => list(db).await,
            Self::Disable(Whom { email }) => set_disabled(db, &email, true).await,
            Self::Enable(Whom { email }) => set_disabled(db, &email, false).await,
            Self::SetRole(WhomAs { email, role }) => set_role(db, &email, role).await,
            Self::ResetPassword(Whom { email }) => reset_password(db, &email).await,
            Self::ResetTotp(Whom { email }) => reset_totp(db, &email).await,
            Self::UnsealAudit { reason } => unseal_audit(db, &reason).await,
        }
    }
}

async fn create(db: &Db, email: &str, role: Role) -> anyhow::Result<()> {
    let password = read_password(email)?;
    let new = NewOperator::new(&Passwords::new()?, email, password, role).await?;
    let mut tx = db.begin().await?;
    let operator = operators::create(&mut tx, new, &on_terminal()).await?;
    tx.commit().await?;
    println!("{} may sign in as {}", operator.email, operator.role.name());
    Ok(())
}

async fn list(db: &Db) -> anyhow::Result<()> {
    for account in accounts::list(db.pool()).await? {
        println!("{}", line(&account));
    }
    Ok(())
}

fn line(account: &Account) -> String {
    let operator = &account.operator;
    let state = account.disabled_at.map_or_else(
        || "active".to_owned(),
        |at| format!("disabled since {}", at.format("%Y-%m-%dT%H:%M:%SZ")),
    );
    let code = if operator.has_totp { "code" } else { "no code" };
    format!("{:<8}  {code:<7}  {}  {state}", operator.role.name(), operator.email)
}

async fn set_disabled(db: &Db, email: &str, disabled: bool) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    let operator = accounts::set_disabled(&mut tx, email, disabled, &on_terminal()).await?;
    tx.commit().await?;
    if disabled {
        println!("{} is kept out", operator.email);
    } else {
        println!("{} may sign in as {}", operator.email, operator.role.name());
    }
    Ok(())
}

async fn set_role(db: &Db, email: &str, role: Role) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    let operator = accounts::set_role(&mut tx, email, role, &on_terminal()).await?;
    tx.commit().await?;
    println!(
        "{} is {} from the next sign-in on",
        operator.email,
        operator.role.name()
    );
    Ok(())
}

async fn reset_password(db: &Db, email: &str) -> anyhow::Result<()> {
    let password = NewPassword::new(&Passwords::new()?, read_password(email)?).await?;
    let mut tx = db.begin().await?;
    let operator = accounts::set_password(&mut tx, email, password, &on_terminal()).await?;
    tx.commit().await?;
    println!("{} signs in with the new password", operator.email);
    Ok(())
}

async fn reset_totp(db: &Db, email: &str) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    let operator = accounts::forget_totp(&mut tx, email, &on_terminal()).await?;
    tx.commit().await?;
    println!(
        "{} signs in without a code until they set up another authenticator",
        operator.email
    );
    Ok(())
}

async fn unseal_audit(db: &Db, reason: &str) -> anyhow::Result<()> {
    let mut tx = db.begin().await?;
    let whole = checks::unseal(&mut tx, &on_terminal(), reason).await?;
    tx.commit().await?;
    println!(
        "all {} entries are as they were written; audit.verify seals them anew",
        whole.seq
    );
    Ok(())
}

/// Who acts here, for the audit log.
fn on_terminal() -> String {
    format!("cli:{}", std::env::var("USER").unwrap_or_else(|_| "unknown".to_owned()))
}

/// The first line of standard input; a terminal does not show it.
fn read_password(email: &str) -> anyhow::Result<String> {
    let terminal = std::io::stdin().is_terminal();
    if terminal {
        eprintln!("Password for {email}, {SHORTEST_PASSWORD} characters or more:");
    }
    let hidden = terminal && stty("-echo");
    let mut password = String::new();
    let read = std::io::stdin().read_line(&mut password);
    if hidden {
        stty("echo");
    }
    read.context("reading the password")?;
    Ok(password.trim_end_matches(['\r', '\n']).to_owned())
}

/// Sets the terminal. False: it goes on as it was.
fn stty(mode: &str) -> bool {
    std::process::Command::new("stty")
        .arg(mode)
        .status()
        .is_ok_and(|status| status.success())
}
