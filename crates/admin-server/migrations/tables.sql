-- The tables that the API reads, as far as it reads them. Those that exist already stay as they are.

CREATE SCHEMA IF NOT EXISTS metaschema_public;
CREATE SCHEMA IF NOT EXISTS roles_public;
CREATE SCHEMA IF NOT EXISTS services_public;

CREATE TABLE IF NOT EXISTS metaschema_public.database (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name text,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS roles_public.users (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    username text,
    display_name text,
    profile_picture jsonb,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE IF NOT EXISTS services_public.sites (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    database_id uuid NOT NULL REFERENCES metaschema_public.database (id) ON DELETE CASCADE,
    title text,
    logo jsonb
);

CREATE TABLE IF NOT EXISTS services_public.domains (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    database_id uuid NOT NULL REFERENCES metaschema_public.database (id) ON DELETE CASCADE,
    site_id uuid REFERENCES services_public.sites (id) ON DELETE CASCADE,
    subdomain text,
    domain text
);

CREATE TABLE IF NOT EXISTS services_public.site_themes (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    database_id uuid NOT NULL REFERENCES metaschema_public.database (id) ON DELETE CASCADE,
    site_id uuid NOT NULL REFERENCES services_public.sites (id) ON DELETE CASCADE,
    theme jsonb
);

CREATE TABLE IF NOT EXISTS services_public.site_modules (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    database_id uuid NOT NULL REFERENCES metaschema_public.database (id) ON DELETE CASCADE,
    site_id uuid NOT NULL REFERENCES services_public.sites (id) ON DELETE CASCADE,
    name text NOT NULL,
    data jsonb NOT NULL DEFAULT '{}'
);
