/** What the page does when it opens: which model is it, may one ask, and what goes on in the engine. */
import { nextCurl, startChat } from "./chat.js";
import { byId } from "./dom.js";
import { startEngineView } from "./engine.js";
import { ask, Failure, hasKey, useKey } from "./server.js";

/** How long to wait for a server that is not ready. */
const retryMs = 2_000;

const keyForm = byId("key-form", HTMLFormElement);
const key = byId("key", HTMLInputElement);
const notice = byId("notice", HTMLElement);
const model = byId("model", HTMLElement);
const curl = byId("curl", HTMLElement);
const copied = byId("copied", HTMLElement);
let name = "Answer";

/** Asks until the server is ready; without a key that it knows, the page asks for one. */
async function open() {
  try {
    const { data } = /** @type {{ data: { id: string }[] }} */ (await (await ask("/v1/models")).json());
    name = data[0].id;
    model.textContent = name;
    notice.textContent = "";
    keyForm.hidden = true;
    startEngineView(askForKey);
  } catch (error) {
    if (error instanceof Failure && error.status === 401) return askForKey();
    notice.textContent = error instanceof Error ? error.message : String(error);
    setTimeout(() => void open(), retryMs);
  }
}

function askForKey() {
  notice.textContent = hasKey() ? "The server does not know this key. Enter another one." : "";
  keyForm.hidden = false;
  key.focus();
}

function showCurl() {
  curl.textContent = nextCurl();
  copied.textContent = "";
}

async function copy() {
  try {
    await navigator.clipboard.writeText(curl.textContent);
    copied.textContent = "Copied.";
  } catch {
    // Not every page may write to the clipboard; everybody can with the keyboard.
    getSelection()?.selectAllChildren(curl);
    copied.textContent = "Selected: copy it with Ctrl+C.";
  }
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(key.value);
  key.value = "";
  byId("question", HTMLElement).focus();
  showCurl();
  void open();
});
byId("copy", HTMLButtonElement).addEventListener("click", () => void copy());
startChat({ modelName: () => name, onRefusedKey: askForKey, onChange: showCurl });
showCurl();
void open();
