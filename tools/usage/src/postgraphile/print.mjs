// Prints the queries and mutations that PostGraphile makes of the jobs schema, and the fields of the types that clients use.
import { makeSchema } from "postgraphile";
import { makePgService } from "postgraphile/adaptors/pg";
import { lexicographicSortSchema } from "postgraphile/graphql";
import { PostGraphileAmberPreset } from "postgraphile/presets/amber";

const { schema } = await makeSchema({
  extends: [PostGraphileAmberPreset],
  pgServices: [makePgService({ connectionString: process.argv[2], schemas: ["app_jobs"], pubsub: false })],
});
const sorted = lexicographicSortSchema(schema);
const types = ["Query", "Mutation", "AddJobInput", "AddScheduledJobInput", "AddJobPayload", "AddScheduledJobPayload", "Job", "ScheduledJob"];
for (const type of types.map((name) => sorted.getType(name))) {
  for (const field of Object.values(type?.getFields() ?? {})) {
    const given = (field.args ?? []).map(({ name, type }) => `${name}: ${type}`).join(", ");
    console.log(`${type.name}.${field.name}${given && `(${given})`}: ${field.type}`);
  }
}
process.exit(0);
