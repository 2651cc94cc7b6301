import { errno } from '../../errno.ts';
import { handler, type IommufdContext } from './context.ts';
import { Ioas } from './ioas.ts';
import { iommuOption } from './structs.ts';

const RLIMIT_MODE = 0;
const HUGE_PAGES = 1;
const SET = 0;
const GET = 1;

function rlimitMode(context: IommufdContext, op: number, value: bigint): bigint {
  if (op === GET) return context.accountsProcess ? 1n : 0n;
  if (op !== SET) return BigInt(-errno.EOPNOTSUPP);
  if (!context.isEmpty) return BigInt(-errno.EBUSY);
  if (value > 1n) return BigInt(-errno.EINVAL);
  context.accountsProcess = value === 1n;
  return value;
}

function hugePages(ioas: Ioas, op: number, value: bigint): bigint {
  if (op === GET) return ioas.table.hugePages ? 1n : 0n;
  if (op !== SET) return BigInt(-errno.EOPNOTSUPP);
  if (value > 1n) return BigInt(-errno.EINVAL);
  return BigInt(ioas.table.setHugePages(value === 1n)) || value;
}

/** IOMMU_OPTION: a value by option and operation, of the context or of one IOAS. */
export const option = handler('IOMMU_OPTION', iommuOption, 'val64', (context, command) => {
  const { option_id, op, reserved, object_id, val64 } = command.in;
  if (reserved !== 0) return -errno.EOPNOTSUPP;
  let value: bigint;
  if (option_id === RLIMIT_MODE) {
    if (object_id !== 0) return -errno.EOPNOTSUPP;
    value = rlimitMode(context, op, val64);
  } else if (option_id === HUGE_PAGES) {
    const ioas = context.get(object_id, Ioas);
    if (ioas === undefined) return -errno.ENOENT;
    value = hugePages(ioas, op, val64);
  } else return -errno.EOPNOTSUPP;
  return value < 0n ? Number(value) : command.respond({ val64: value });
});
