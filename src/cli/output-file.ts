import { accessSync, constants, type Stats, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { UsageError } from './command.ts';

/** Looks at a file that a long command is going to write, before its work is done in vain. @throws UsageError that names the option */
export function requireOutputFile(option: string, file: string): void {
  const folder = dirname(file);
  const before = statusOf(file);
  if (file === '' || before?.isDirectory() === true) throw new UsageError(`${option} '${file}' is no file`);
  if (statusOf(folder)?.isDirectory() !== true) throw new UsageError(`${option} ${file}: there is no folder ${folder}`);
  try {
    accessSync(before === null ? folder : file, constants.W_OK);
  } catch (error) {
    throw new UsageError(`${option} ${file} cannot be written: ${(error as NodeJS.ErrnoException).code}`);
  }
}

/** Null where nothing is, or nothing that can be looked at. */
function statusOf(path: string): Stats | null {
  try {
    return statSync(path);
  } catch {
    return null;
  }
}
