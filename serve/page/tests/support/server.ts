/** A server of its own for a test: the program that `SDQ_BIN` names, on a free port, with a folder that is thrown away. */
import { spawn, type ChildProcess } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as pause } from "node:timers/promises";

/** Time for a debug build on a busy machine to open its model. */
const START_MS = 60_000;

async function freePort(): Promise<number> {
  const probe = createServer().listen(0, "127.0.0.1");
  await once(probe, "listening");
  const { port } = probe.address() as { port: number };
  await new Promise((resolve) => probe.close(resolve));
  return port;
}

export class Server {
  private child: ChildProcess | null = null;
  private said = "";

  private constructor(
    readonly url: string,
    private readonly folder: string,
    private readonly flags: string[],
  ) {}

  /** Starts a server; `flags` follow `serve`. */
  static async start(...flags: string[]): Promise<Server> {
    const folder = mkdtempSync(join(tmpdir(), "sdq-page-"));
    const server = new Server(`http://127.0.0.1:${await freePort()}`, folder, flags);
    await server.run();
    return server;
  }

  /** A LoRA that holds nothing: enough to be listed. */
  static async startWithLora(name: string): Promise<Server> {
    const folder = mkdtempSync(join(tmpdir(), "sdq-loras-"));
    const header = Buffer.from("{}      ");
    const length = Buffer.alloc(8);
    length.writeUInt32LE(header.length);
    writeFileSync(join(folder, `${name}.safetensors`), Buffer.concat([length, header]));
    return Server.start("--lora-dir", folder);
  }

  /** Starts the program, again if it was stopped, on the same port and folder. */
  async run(): Promise<void> {
    const program = process.env.SDQ_BIN;
    if (!program) throw new Error("SDQ_BIN must name the program `sdq`");
    const listen = this.url.slice("http://".length);
    const args = ["serve", "--listen", listen, "--output-dir", join(this.folder, "pictures"), ...this.flags];
    const child = spawn(program, args, { stdio: ["ignore", "pipe", "pipe"] });
    const note = (text: Buffer) => (this.said += text.toString());
    child.stdout.on("data", note);
    child.stderr.on("data", note);
    this.child = child;
    const until = Date.now() + START_MS;
    while (!(await this.answers())) {
      if (child.exitCode !== null || Date.now() > until)
        throw new Error(`the server did not start:\n${this.said}`);
      await pause(50);
    }
  }

  private async answers(): Promise<boolean> {
    return fetch(`${this.url}/health`).then(
      (response) => response.status > 0,
      () => false,
    );
  }

  /** Ends the program at once, as if the power failed. */
  async kill(): Promise<void> {
    const child = this.child;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  }

  async stop(): Promise<void> {
    await this.kill();
    rmSync(this.folder, { recursive: true, force: true });
  }
}
