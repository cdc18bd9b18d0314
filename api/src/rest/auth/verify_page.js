const said = document.getElementById("said");
const button = document.getElementById("verify");
const token = new URLSearchParams(location.search).get("token") || "";
button.addEventListener("click", async () => {
  button.disabled = true;
  said.textContent = "One moment…";
  try {
    const reply = await fetch(location.pathname, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token }),
    });
    if (reply.ok) {
      said.textContent = "Thank you: your address is verified.";
      button.hidden = true;
      return;
    }
    const problem = await reply.json();
    said.textContent = problem.detail;
  } catch {
    said.textContent = "That did not work; please try again.";
  }
  button.disabled = false;
});
