import { Argument, Option } from 'commander';
import { pathNames } from '../../accel/choose.ts';
import { hostKinds } from '../../host/registry.ts';
import { type Command, EXIT_OK, EXIT_WRONG, type Output } from '../command.ts';
import { type HostHardware, hostHardwares } from '../replay/rig-sim.ts';
import { table } from '../table.ts';
import { wrapped } from '../wrap.ts';
import { type Cell, cellOf } from './cell.ts';
import { guests } from './guests.ts';

const HEAD =
  'Paths of a passed-through device on the simulated kernel: iommufd on plain hardware, then where the hardware walks a first stage too. owned: user-owned; +q: with a queue of commands that the hardware reads by itself (cmdqv: an SMMUv3 that has them). *: the guest does not announce new mappings; the embedder says when it stores to its tables (watched).';

/** Every host interface, and what iommufd can find behind it. */
function columns(): readonly { readonly name: string; readonly host: string; readonly hardware: HostHardware }[] {
  return hostKinds().flatMap((host) => {
    if (host !== 'iommufd') return [{ name: host.replace('vfio-', ''), host, hardware: 'none' as const }];
    return hostHardwares().map((hardware) => ({ name: hardware === 'none' ? host : hardware.replace('smmuv3-', ''), host, hardware }));
  });
}

/** Every target on every host: which path a passed-through device takes. */
export const matrixCommand: Command = {
  name: 'matrix',
  summary: 'which path serves each target on each host',
  define: (command, output, end) => {
    command.action(({ json }: { json: boolean }) => end(matrix(json, output)));
  },
};

/** One combination, with the reason of every path. */
export const explainCommand: Command = {
  name: 'explain',
  summary: 'why a target takes the path that it takes on a host',
  define: (command, output, end) => {
    command
      .addArgument(new Argument('<TARGET>', 'the IOMMU that the guest sees').choices(Object.keys(guests)))
      .addArgument(new Argument('[HOST]', 'kernel interface of the host').choices(hostKinds()).default('iommufd'))
      .addOption(new Option('--host-hw <iommu>', "the simulated host's IOMMU").choices(hostHardwares()).default('none'))
      .addOption(new Option('--path <path>', 'path from the guest to the hardware').choices(pathNames()).default('auto'))
      .action((target: string, host: string, { hostHw, path, json }: { hostHw: HostHardware; path: string; json: boolean }) =>
        end(explain(cellOf(target, host, hostHw, path), json, output)),
      );
  },
};

function matrix(json: boolean, output: Output): number {
  const cells = Object.keys(guests).map((target) => columns().map(({ host, hardware }) => cellOf(target, host, hardware)));
  if (json) {
    output.out(JSON.stringify({ combinations: cells.flat() }));
    return EXIT_OK;
  }
  for (const line of wrapped('', HEAD, output.columns)) output.out(line);
  output.out('');
  const rows = cells.map((row, i) => [Object.keys(guests)[i], ...row.map(shortOf)]);
  for (const line of table(['target', ...columns().map(({ name }) => name)], rows, output.columns)) output.out(line);
  output.out('\n`viommu explain TARGET HOST --host-hw IOMMU` gives the reasons.');
  return EXIT_OK;
}

function shortOf({ path }: Cell): string {
  return path?.replace('user-owned', 'owned').replace('-queue', '+q').replace(', watched', '*') ?? '-';
}

function explain(cell: Cell, json: boolean, output: Output): number {
  const { target, host, hardware, path, refused } = cell;
  const status = path === null ? EXIT_WRONG : EXIT_OK;
  if (json) {
    output.out(JSON.stringify(cell));
    return status;
  }
  const where = hardware === 'none' ? host : `${host} on ${hardware}`;
  output.out(`${guests[target].title} over ${where}: ${path === null ? 'nothing serves' : `path ${path}`}`);
  for (const { path: name, reason } of refused) for (const line of wrapped(`  ${name}: `, reason, output.columns)) output.out(line);
  if (path?.endsWith(', watched')) {
    const what =
      "the embedder says when the guest stores to its tables (TableWatch, docs/paths.md); without that, its guest's device is blocked";
    for (const line of wrapped(`  ${path}: `, what, output.columns)) output.out(line);
  }
  return status;
}
