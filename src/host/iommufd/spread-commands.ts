import type { HostError } from '../errno.ts';
import type { GuestCommands } from '../host.ts';
import type { SmmuGuestCommands } from './guest-commands.ts';

/** A guest's commands for every IOMMU that its devices stand behind: it sees one, so each hears all that concerns its streams. */
export class SpreadCommands implements GuestCommands {
  readonly #each: SmmuGuestCommands[] = [];
  #error: HostError | null = null;

  join(commands: SmmuGuestCommands): void {
    this.#each.push(commands);
  }

  leave(commands: SmmuGuestCommands): void {
    this.#each.splice(this.#each.indexOf(commands), 1);
  }

  get pending(): boolean {
    return this.#each.some(({ pending }) => pending);
  }

  get error(): HostError | null {
    return this.#error;
  }

  add(words: Int32Array): void {
    for (let i = 0; i < this.#each.length; i++) this.#each[i].add(words);
  }

  /** What one does not carry out is no reason for the others not to. */
  sync(): number {
    let result = 0;
    for (const commands of this.#each) {
      const answer = commands.sync();
      if (answer === 0 || result < 0) continue;
      result = answer;
      this.#error = commands.error;
    }
    return result;
  }
}
