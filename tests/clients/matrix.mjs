// As matrix.py: runs one client's cells and says for each whether it passed.

export const url = process.env.SIDESTEP_URL;
export const apiVersion = "2025-04-01-preview";
export const apiKey = "does-not-matter";
export const [chatModel, embeddingsModel, audioModel, imageModel, realtimeModel] = [
  "gpt-4o", "text-embedding-3-small", "whisper", "gpt-image-1", "gpt-realtime"];
export const messages = [{ role: "user", content: "Why did the request take a side step?" }];
export const dot =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
export const texts = Array.from({ length: 16 }, (_, n) => `text ${n}`);
const atHome = ["files, vector stores, file search", "batches"];

export function check(condition, what) {
  if (!condition) throw new Error(what);
}

async function throttled() {
  const answer = await fetch(`${process.env.SIDESTEP_THROTTLED_URL}/control/counters`);
  return (await answer.json()).throttled;
}

export async function run(client, version, cells) {
  for (const [call, cell] of Object.entries(cells)) {
    // Longer than the throttled backend's cooldown of 10 ms, so that this call is throttled too.
    await new Promise((resolve) => setTimeout(resolve, 50));
    const before = await throttled();
    let verdict = "pass";
    try {
      await cell();
      const asked = atHome.includes(call) || (await throttled()) > before;
      check(asked, "the throttled backend was not asked: nothing was proven");
    } catch (error) {
      console.log(`FAILED ${client} · ${call}\n${error.stack ?? error}`);
      verdict = "FAIL";
    }
    console.log(`cell|${client}|${version}|${call}|${verdict}`);
  }
  process.exit(0);
}
