import { requireNumber } from '../../memory/arguments.ts';
import { S_DEVERR, S_FAULT, S_NOMEM, S_RANGE } from './spec/requests.ts';

/** Not on the wire: the request cannot be told its status, its buffer comes back with a used length of 0 (5.13.6). */
export const S_NONE = -1;

const names = ['OK', 'IOERR', 'UNSUPP', 'DEVERR', 'INVAL', 'RANGE', 'NOENT', 'FAULT', 'NOMEM'];

/** `RANGE` for 5. */
export function statusName(status: number): string {
  requireNumber('statusName', 'status', status);
  return names[status] ?? `status ${status}`;
}

const ENOMEM = -12;
const EFAULT = -14;
const ENOSPC = -28;
const ERANGE = -34;

/** How a host's errno is said in 5.13.6's words. */
export function statusOf(result: number): number {
  if (result === ENOMEM || result === ENOSPC) return S_NOMEM;
  if (result === EFAULT) return S_FAULT;
  return result === ERANGE ? S_RANGE : S_DEVERR;
}
