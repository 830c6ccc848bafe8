-- Development data: one user where there is none; one database with its site where there is no database.
-- The ids are fixed so that documentation can show them.

INSERT INTO roles_public.users (id, username, display_name, profile_picture)
SELECT '5f9b1c1e-6d0a-4c57-9d6a-0b1e2c3d4e5f', 'ada', 'Ada Lovelace',
       '{"url": "https://app.constructive.example/ada.png", "mime": "image/png"}'
 WHERE NOT EXISTS (SELECT FROM roles_public.users);

WITH new_database AS (
    INSERT INTO metaschema_public.database (id, name)
    SELECT '0b6c3a52-7d1f-4e8b-9a3c-2f4d5e6a7b81', 'constructive'
     WHERE NOT EXISTS (SELECT FROM metaschema_public.database)
    RETURNING id
), new_site AS (
    INSERT INTO services_public.sites (id, database_id, title, logo)
    SELECT '1c7d4b63-8e20-4f9c-8b4d-305e6f7b8c92', id, 'Constructive',
           '{"url": "https://app.constructive.example/logo.png", "mime": "image/png"}'
      FROM new_database
    RETURNING id, database_id
), new_domain AS (
    INSERT INTO services_public.domains (id, database_id, site_id, subdomain, domain)
    SELECT '2d8e5c74-9f31-4a0d-9c5e-416f708c9da3', database_id, id, 'app', 'constructive.example' FROM new_site
), new_theme AS (
    INSERT INTO services_public.site_themes (id, database_id, site_id, theme)
    SELECT '3e9f6d85-a042-4b1e-8d6f-52708190aeb4', database_id, id, '{"primary": "#01A1FF"}' FROM new_site
)
INSERT INTO services_public.site_modules (id, database_id, site_id, name, data)
SELECT '4fa07e96-b153-4c2f-9e70-638192a1bfc5', database_id, id, 'legal_terms_module',
       '{"emails": {"support": "support@constructive.example"},
         "company": {"website": "https://constructive.example", "nick": "Constructive", "name": "Constructive, Inc."}}'
  FROM new_site;
